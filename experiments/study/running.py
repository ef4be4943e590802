"""Run the cells that are not finished yet; after any interruption the next run goes on."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from cna_lens import InputError
from cna_lens.results import Journal, library_versions
from experiments.study.bench import Bench
from experiments.study.cells import Cell
from experiments.study.measures import MEASURES
from experiments.study.settings import Study

RECORDS = "records.jsonl"


class Loaded(Protocol):
    """A loaded model that measures its cells."""

    weights_sha256: str

    def measure(self, cell: Cell) -> Mapping[str, Any]:
        """The values of a cell, as plain data."""
        ...


Load = Callable[[Cell], Loaded]


@dataclass(frozen=True)
class OnBench:
    """Measures cells on a loaded model."""

    bench: Bench

    @property
    def weights_sha256(self) -> str:
        """The hash of the model's weights."""
        return self.bench.weights_sha256

    @property
    def device(self) -> str:
        """The device of the model."""
        return str(next(self.bench.model.parameters()).device)

    def measure(self, cell: Cell) -> Mapping[str, Any]:
        """The values of a cell, as plain data."""
        return MEASURES[cell.measure](self.bench, cell)


def open_journal(study: Study, folder: Path) -> Journal:
    """The study's records in a folder.

    Raises:
        InputError: the folder holds records of other settings or of other library versions.
    """
    depends_on = {**study.record(), "versions": dict(library_versions())}
    return Journal(folder / RECORDS, "study", depends_on)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Keep every other process out of a folder; the lock ends with this process in any case.

    Raises:
        InputError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"another process works in {folder}; wait for it, or give another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Ledger:
    """Takes the finished cells of a run; one process writes to it.

    Attributes:
        journal: keeps them.
        bar: shows their number.
        provenance: the common part of this run's records.
    """

    journal: Journal
    bar: Any
    provenance: Mapping[str, Any]

    def show(self, text: str) -> None:
        """Show the current step behind the bar."""
        self.bar.set_postfix_str(text)

    def check_weights(self, cell: Cell, weights_sha256: str) -> None:
        """Raise InputError if cells of a model of this name were measured on other weights."""
        for record in self.journal.values():
            known = record["provenance"]["weights_sha256"]
            same = (record["cell"]["model"], record["cell"]["dtype"]) == (cell.model, cell.dtype)
            if same and known != weights_sha256:
                raise InputError(
                    f"the weights of {cell.model} are {weights_sha256[:12]}, and finished cells "
                    f"were measured on {known[:12]}; give another --out, or delete those records"
                )

    def keep(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Put a finished cell on the disk."""
        self.journal.add(cell.key, record)
        self.bar.update()


class Measuring(Protocol):
    """A way to measure cells: in this process, or on other machines."""

    def __call__(self, cells: Sequence[Cell], load: Load, ledger: Ledger) -> None:
        """Measure all cells, and keep each as soon as it is finished."""
        ...


def in_process(cells: Sequence[Cell], load: Load, ledger: Ledger) -> None:
    """Measure cells in this process, one model after the other."""
    loaded: Loaded | None = None
    for mine in by_model(cells):
        ledger.show(f"loading {mine[0].model}")
        if loaded is not None:
            # One model at a time in memory.
            loaded = None
            gc.collect()
        loaded = load(mine[0])
        ledger.check_weights(mine[0], loaded.weights_sha256)
        for cell in mine:
            ledger.show(str(cell))
            ledger.keep(cell, measured(cell, loaded, ledger.provenance))


def run_cells(
    cells: Sequence[Cell],
    journal: Journal,
    load: Load,
    *,
    config_sha256: str,
    progress: bool = True,
    measuring: Measuring = in_process,
) -> int:
    """Measure the cells that the journal lacks, and keep each one at once.

    Args:
        cells: in any order; a cell that is given twice is measured once.
        journal: keeps finished cells.
        load: loads the model of a cell; called once for each model that is needed.
        config_sha256: hash of the settings.
        progress: show a bar over the cells with the time left.
        measuring: how they are measured.

    Returns:
        How many cells were measured.

    Raises:
        InputError: finished cells of a model were measured on other weights.
    """
    wanted = {cell.key: cell for cell in cells}
    missing = [cell for key, cell in wanted.items() if key not in journal]
    bar = tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="cell")
    bar.disable = bar.disable or not progress
    shared = {"config_sha256": config_sha256, "versions": dict(library_versions())}
    with bar:
        measuring(missing, load, Ledger(journal, bar, shared))
    return len(missing)


def by_model(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of each model, in the order in which models first occur."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.model, cell.dtype), []).append(cell)
    return list(groups.values())


def measured(cell: Cell, loaded: Loaded, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a cell, measured in this process."""
    started = time.perf_counter()
    values = dict(loaded.measure(cell))
    return {
        "cell": cell.record(),
        "values": values,
        "provenance": {
            **provenance,
            "weights_sha256": loaded.weights_sha256,
            "seed": cell.seed,
            "device": getattr(loaded, "device", "unknown"),
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - started, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
