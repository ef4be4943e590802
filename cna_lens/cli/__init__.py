"""The command line: find, show, steer, evaluate, estimate, demo, play, report, audit, reproduce."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cna_lens.errors import CnaLensError, CnaLensWarning

__all__ = ["main", "run_app", "share_the_machine"]

SPIN_COUNT = "1000"
"""How often a thread of torch polls for work before it sleeps: long enough to catch the next matrix
product, short enough to leave the processor to other programs (docs/performance.md)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: the arguments after the command's name; by default those of the process.
    """
    share_the_machine()
    # Imported late: OpenMP reads its settings once, when torch is loaded.
    from cna_lens.cli.app import app

    run_app(app, arguments)


def run_app(app: Callable[..., object], arguments: Sequence[str] | None = None) -> None:
    """Run a Typer app; an error of cna_lens becomes a message and exit code 2, a warning a line."""
    shown = warnings.showwarning
    warnings.showwarning = partial(_show_warning, shown)
    try:
        app(arguments)
    except CnaLensError as error:
        sys.stderr.write(f"cna-lens: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("cna-lens: interrupted\n")
        sys.exit(130)
    finally:
        warnings.showwarning = shown


def share_the_machine() -> None:
    """Let waiting threads of torch sleep, unless the user has set how they wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def _show_warning(
    otherwise: Callable[..., None],
    message: Warning | str,
    category: type[Warning],
    *place: Any,
    **options: Any,
) -> None:
    """Print a warning of cna_lens as a sentence, without the line of code that raised it."""
    if issubclass(category, CnaLensWarning):
        sys.stderr.write(f"cna-lens: warning: {message}\n")
    else:
        otherwise(message, category, *place, **options)
