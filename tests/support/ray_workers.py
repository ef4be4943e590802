"""What Ray's workers load instead of a model; they import it from this folder."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Loaded:
    """Measures a cell by its number, and tells which process did so, on which GPUs."""

    weights_sha256: str

    def measure(self, cell):
        sys.stdout.write(f"cell {cell.block}\n")
        return {
            "square": cell.block**2,
            "process": os.getpid(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }


@dataclass(frozen=True)
class Load:
    """Loads no model."""

    def __call__(self, cell):
        return Loaded(f"weights of {cell.model}")


@dataclass(frozen=True)
class Failing(Load):
    """One cell raises, always."""

    block: int

    def __call__(self, cell):
        return FailingAt(f"weights of {cell.model}", self.block)


@dataclass(frozen=True)
class FailingAt(Loaded):
    block: int

    def measure(self, cell):
        if cell.block == self.block:
            raise ZeroDivisionError(f"cell {cell.block} has no answer")
        return super().measure(cell)


@dataclass(frozen=True)
class Deadly(Load):
    """One cell kills whatever process measures it, which says so in a file first."""

    block: int
    deaths: Path

    def __call__(self, cell):
        return DeadlyAt(f"weights of {cell.model}", self.block, self.deaths)


@dataclass(frozen=True)
class DeadlyAt(Loaded):
    block: int
    deaths: Path

    def measure(self, cell):
        if cell.block == self.block:
            with self.deaths.open("a") as file:
                file.write(f"{os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().measure(cell)


@dataclass(frozen=True)
class Interrupting(Load):
    """One cell sends Ctrl-C to the process that waits for it, and is never finished."""

    block: int
    waiting: int

    def __call__(self, cell):
        return InterruptingAt(f"weights of {cell.model}", self.block, self.waiting)


@dataclass(frozen=True)
class InterruptingAt(Loaded):
    block: int
    waiting: int

    def measure(self, cell):
        if cell.block == self.block:
            os.kill(self.waiting, signal.SIGINT)
            time.sleep(600)
        return super().measure(cell)
