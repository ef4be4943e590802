"""Loaders without a model; Ray's workers import them from this folder."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """Loads no model, and calls `happen` before the cell `block` is measured."""

    block: int = -1
    given: Path | int | None = None

    def __call__(self, cell):
        return Loaded(f"weights of {cell.model}", self)

    def happen(self, cell):
        """Do nothing."""


@dataclass(frozen=True)
class Loaded:
    """Measures a cell as the square of its number, and notes the process and its GPUs."""

    weights_sha256: str
    load: Load

    def measure(self, cell):
        if cell.block == self.load.block:
            self.load.happen(cell)
        sys.stdout.write(f"cell {cell.block}\n")
        return {
            "square": cell.block**2,
            "process": os.getpid(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }


class Failing(Load):
    """One cell always raises an error."""

    def happen(self, cell):
        raise ZeroDivisionError(f"cell {cell.block} has no answer")


class Deadly(Load):
    """One cell writes the id of its process to the given file, and kills that process."""

    def happen(self, _):
        with self.given.open("a") as file:
            file.write(f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL)


class Interrupting(Load):
    """One cell sends Ctrl-C to the given process, which waits for it, and does not finish."""

    def happen(self, _):
        os.kill(self.given, signal.SIGINT)
        time.sleep(600)
