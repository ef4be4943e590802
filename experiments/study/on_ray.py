"""Measure cells on Ray: each model in a worker of its own, and this process keeps the records.

Runs that measure cells in this process do not import Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from cna_lens.models import Job, ModelTasks, Needs, WorkerRows, run_on_ray
from experiments.study.cells import Cell
from experiments.study.running import Ledger, Load, Loaded, by_model, measured

EXPERIMENTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class OnRay:
    """Measures cells on a Ray cluster, as many models at a time as it has room for.

    Attributes:
        address: of a cluster; "local" for one that begins and ends with the run.
        needs: gives the resources of the worker for a cell.
    """

    address: str
    needs: Callable[[Cell], Needs]

    def __call__(self, cells: Sequence[Cell], load: Load, ledger: Ledger) -> None:
        """Measure all cells, and keep each as soon as it is finished.

        Raises:
            CnaLensError: as for `run_on_ray`.
            InputError: as for `run_on_ray`.
        """
        models = by_model(cells)
        names = [mine[0].model for mine in models]
        groups = [
            # A model may be there in two precisions.
            ModelTasks(
                name if names.count(name) == 1 else f"{name}, {mine[0].dtype}",
                mine,
                self.needs(mine[0]),
            )
            for name, mine in zip(names, models, strict=True)
        ]
        with WorkerRows() as rows:
            finished = run_on_ray(
                groups,
                Measuring(load, ledger.provenance),
                address=self.address,
                check=ledger.check_weights,
                show=lambda workers: ledger.show(rows(workers)),
                # The wheel that machines have installed does not contain the experiments.
                code=[EXPERIMENTS],
            )
            with closing(finished):
                for each in finished:
                    if each.shown:
                        tqdm.write(each.shown, end="")
                    ledger.keep(each.task, each.result)


@dataclass(frozen=True)
class Measuring(Job[Cell]):
    """Loads a model and measures its cells."""

    how: Load
    provenance: Mapping[str, Any]

    def load(self, task: Cell) -> Loaded:
        """The model of a cell."""
        return self.how(task)

    def about(self, loaded: Loaded) -> str:
        """The hash of the model's weights."""
        return loaded.weights_sha256

    def run(self, loaded: Loaded, task: Cell) -> dict[str, Any]:
        """The record of a cell."""
        return measured(task, loaded, self.provenance)
