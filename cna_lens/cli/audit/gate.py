"""Errors under `audit`: exit code 1 says that a model has changed, so no error may end with it."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from cna_lens.errors import CnaLensError, InputError


class Gate(TyperGroup):
    """Commands that end with exit code 2 after any error, whose traceback is shown."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            # Typer's own ways to end have a code; `run_app` gives one to the errors of cna_lens.
            if isinstance(error, CnaLensError) or hasattr(error, "exit_code"):
                raise
            traceback.print_exc()
            raise typer.Exit(2) from error


@contextmanager
def written(option: str, path: Path) -> Generator[None]:
    """Turn an OSError into an InputError that names the option and its file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{option} is {path}, which cannot be written: {error.strerror}; give another path"
        ) from error
