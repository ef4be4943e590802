"""The command line: cna-lens find, show, steer, evaluate, estimate, demo."""

from __future__ import annotations

import sys

from cna_lens.cli.app import app
from cna_lens.errors import CnaLensError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; an error of cna_lens is one message and exit code 2."""
    try:
        app()
    except CnaLensError as error:
        sys.stderr.write(f"cna-lens: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("cna-lens: interrupted\n")
        sys.exit(130)
