"""The bench on planted models in one process, and in two workers of one core each on Ray.

Every run is a process of its own, since PyTorch reads its number of threads once. Its time is the
whole command's, from its start to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cna_lens.models import Job
from experiments.benchmarks.timing import Measure, alternate, quantity, ratio

COMMAND = "from cna_lens.cli import main; main()"
EMPTY = "from experiments.benchmarks.side_by_side import start_and_end; start_and_end()"
ONE, TWO, ON_RAY = "one thread", "two threads", "two workers on Ray"
SIDES = {ONE: (1, ()), TWO: (2, ()), ON_RAY: (1, ("--ray", "local"))}
"""Threads of each process, and further options of the command."""


@dataclass(frozen=True)
class SideBySide:
    """The same work on each side.

    Attributes:
        models: two planted models of the split "tuning".
        rankings: names of rankings.
        out: folder for results; what is there from an earlier benchmark is deleted.
        repeats: counted runs of each side.
    """

    models: Sequence[str]
    rankings: Sequence[str]
    out: Path
    repeats: int

    def run(self) -> list[Measure]:
        """The ratios of the times, and how many records are the same."""
        times = alternate({side: partial(self.bench, side) for side in SIDES}, self.repeats, 0)
        starting = alternate({"empty": partial(_python, 1, EMPTY)}, self.repeats, 0)["empty"]
        found = {side: self.records(side) for side in SIDES}
        n_records = len(found[ONE])
        return [
            ratio("one process of one thread / two workers on Ray", times, ONE, ON_RAY, "1.7"),
            ratio("one process of two threads / two workers on Ray", times, TWO, ON_RAY, ""),
            *(quantity(f"the bench, {side}", times[side], "seconds") for side in SIDES),
            quantity("of these, to start and end Ray and two workers", starting, "seconds"),
            *(
                quantity(
                    f"records as with one thread: {side}",
                    sum(a == b for a, b in zip(found[side], found[ONE], strict=True)),
                    f"of {n_records}",
                )
                for side in (TWO, ON_RAY)
            ),
        ]

    def bench(self, side: str) -> None:
        """Run the command on one side, from nothing."""
        threads, more = SIDES[side]
        folder = self.folder(side)
        shutil.rmtree(folder, ignore_errors=True)
        named = [
            *(word for name in self.rankings for word in ("--ranking", name)),
            *(word for name in self.models for word in ("--model", name)),
        ]
        common = ("bench", "rankings", "--split", "tuning", "--device", "cpu")
        _python(threads, COMMAND, *common, "--out", str(folder), *named, *more)

    def records(self, side: str) -> list[dict[str, Any]]:
        """The results of a side, without their seconds."""
        scored = json.loads((self.folder(side) / "tuning.json").read_text())["scored"]
        return [each | {"cost": {**each["cost"], "seconds": None}} for each in scored]

    def folder(self, side: str) -> Path:
        """The folder of a side's results."""
        return self.out / side.replace(" ", "_")


class Nothing(Job[str]):
    """Loads no model and does nothing; its worker has imported the package."""

    def load(self, task: str) -> None:
        """Load nothing."""

    def run(self, loaded: None, task: str) -> None:
        """Do nothing."""


def start_and_end() -> None:
    """Begin a local cluster with two workers that import the bench, and end it."""
    from cna_lens.evidence import bench_rankings  # noqa: F401
    from cna_lens.models import ModelTasks, Needs, run_on_ray

    groups = [ModelTasks(name, ("nothing",), Needs(0)) for name in ("one", "two")]
    experiments = Path(__file__).parents[1]
    list(run_on_ray(groups, Nothing(), address="local", code=[experiments]))


def _python(threads: int, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
