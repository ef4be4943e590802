"""Run the experiments of a checkout, which an installed wheel does not hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cna_lens.errors import CnaLensError


def run(arguments: Sequence[str]) -> None:
    """Hand the arguments on to `experiments.command`.

    The experiments are no part of the wheel: a top-level package called `experiments` would stand
    in the way of everybody's own. They are found where Python finds modules, or in the current
    folder.

    Raises:
        CnaLensError: there is no checkout of the experiments.
    """
    app: Any = _command().app
    app(list(arguments), prog_name="cna-lens reproduce")


def _command() -> Any:
    if _is_checkout(Path.cwd()) and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return import_module("experiments.command")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("experiments"):
            raise
        raise CnaLensError(
            "the experiments are in the repository of cna_lens, not in the installed package, and "
            f"{Path.cwd()} is no checkout of it; run the command in the folder of a clone"
        ) from error


def _is_checkout(folder: Path) -> bool:
    return (folder / "experiments" / "command.py").is_file()
