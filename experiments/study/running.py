"""Run the cells that are not finished yet; whatever ends a run, the next one goes on from there."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from cna_lens import InputError
from cna_lens.journal import Journal
from cna_lens.versions import library_versions
from experiments.study.bench import Bench
from experiments.study.cells import Cell
from experiments.study.measures import MEASURES
from experiments.study.settings import Study

RECORDS = "records.jsonl"


class Loaded(Protocol):
    """What measures cells of one model."""

    weights_sha256: str

    def measure(self, cell: Cell) -> Mapping[str, Any]:
        """The values of a cell, as plain data."""
        ...


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
        """Where the model is."""
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
def locked(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder; the lock ends with the process, however it ends.

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


def run_cells(
    cells: Sequence[Cell],
    journal: Journal,
    load: Callable[[Cell], Loaded],
    *,
    config_sha256: str,
    progress: bool = True,
) -> int:
    """Measure what the journal lacks, one model after the other, and keep each cell at once.

    Args:
        cells: in any order; a cell that stands there twice is measured once.
        journal: where finished cells are kept.
        load: loads the model of a cell; called once for each model that is needed.
        config_sha256: of the settings.
        progress: show a bar over the cells with the time left.

    Returns:
        How many cells were measured.

    Raises:
        InputError: a model's weights are not those that finished cells were measured on.
    """
    versions = dict(library_versions())
    wanted = {cell.key: cell for cell in cells}
    missing = [cell for key, cell in wanted.items() if key not in journal]
    bar = tqdm(total=len(wanted), initial=len(wanted) - len(missing), unit="cell")
    bar.disable = bar.disable or not progress
    loaded: Loaded | None = None
    with bar:
        for model in dict.fromkeys((cell.model, cell.dtype) for cell in missing):
            mine = [cell for cell in missing if (cell.model, cell.dtype) == model]
            bar.set_postfix_str(f"loading {mine[0].model}")
            if loaded is not None:
                # One model at a time in memory.
                loaded = None
                gc.collect()
            loaded = load(mine[0])
            check_weights(journal, mine[0], loaded.weights_sha256)
            for cell in mine:
                bar.set_postfix_str(str(cell))
                shared = {"config_sha256": config_sha256, "versions": versions}
                journal.add(cell.key, _record(cell, loaded, shared))
                bar.update()
    return len(missing)


def check_weights(journal: Journal, cell: Cell, weights_sha256: str) -> None:
    """Raise InputError where cells of a model of this name were measured on other weights."""
    for record in journal.values():
        known = record["provenance"]["weights_sha256"]
        same = (record["cell"]["model"], record["cell"]["dtype"]) == (cell.model, cell.dtype)
        if same and known != weights_sha256:
            raise InputError(
                f"the weights of {cell.model} are {weights_sha256[:12]}, and finished cells were "
                f"measured on {known[:12]}; give another --out, or delete those records"
            )


def _record(cell: Cell, loaded: Loaded, provenance: Mapping[str, Any]) -> dict[str, Any]:
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
