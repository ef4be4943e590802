"""Run the experiments of a checkout; the installed wheel does not contain them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cna_lens.errors import CnaLensError


def run(arguments: Sequence[str]) -> int:
    """Run `python -m experiments` with these arguments, and return its exit code.

    The wheel leaves the experiments out, because a top-level package of that name would hide
    others of that name. They are found in the current folder, or on Python's module path.

    Raises:
        CnaLensError: no checkout of the experiments is found.
    """
    here = (Path.cwd() / "experiments" / "command.py").is_file()
    if not here and find_spec("experiments") is None:
        raise CnaLensError(
            "the experiments are in the repository of cna_lens, not in the installed package, and "
            f"{Path.cwd()} is no checkout of it; run the command in the folder of a clone"
        )
    process = subprocess.Popen([sys.executable, "-m", "experiments", *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The interrupt reaches the experiments too, and they end by themselves.
            continue
