"""The command line: find, show, steer, evaluate, estimate, demo, play, report, reproduce."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cna_lens.cli.app import app
from cna_lens.errors import CnaLensError

__all__ = ["app", "main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of cna_lens is one message and exit code 2.

    Args:
        arguments: what stands behind the command's name; by default what the process was given.
    """
    try:
        app(arguments)
    except CnaLensError as error:
        sys.stderr.write(f"cna-lens: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("cna-lens: interrupted\n")
        sys.exit(130)
