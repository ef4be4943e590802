"""Jobs without a model; Ray's workers import them from this folder."""

import os
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import ray
from bench_results import scored

from cna_lens.evidence.benchmark import Bench
from cna_lens.evidence.known_truth import Found, Recovery
from cna_lens.evidence.planted_model import PlantedModel
from cna_lens.metrics import BEHAVIOURS
from cna_lens.models import Job, ModelTasks, planting, run_on_ray


@dataclass(frozen=True)
class Number:
    """A task: the square of a number, on a model."""

    model: str
    value: int

    def __str__(self):
        return f"square of {self.value}"


@dataclass(frozen=True)
class Squares(Job):
    """Squares numbers, and writes down each task that begins.

    Attributes:
        begun: the file that takes model, number and process of each task.
        seconds: that each number above 1 takes.
    """

    begun: Path
    seconds: float = 0.0

    def load(self, _):
        return os.getpid()

    def about(self, loaded):
        return f"process {loaded}"

    def run(self, loaded, task):
        with self.begun.open("a") as file:
            file.write(f"{task.model} {task.value} {os.getpid()}\n")
        self.happen(task)
        time.sleep(self.seconds if task.value > 1 else 0)
        sys.stdout.write(f"task {task.value}\n")
        return {
            "square": task.value**2,
            "loaded in": loaded,
            "process": os.getpid(),
            "machine": ray.get_runtime_context().get_node_id(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }

    def happen(self, task):
        """Do nothing."""


@dataclass(frozen=True)
class DyingOnce(Squares):
    """The first process that is to square this number dies."""

    number: int = 2

    def happen(self, task):
        mark = self.begun.with_suffix(".died")
        if task.value == self.number and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DyingAlways(Squares):
    """Every process that is to square this number dies."""

    number: int = 2

    def happen(self, task):
        if task.value == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def groups(needs, n_models=2, n_tasks=4):
    return [
        ModelTasks(name, [Number(name, i) for i in range(n_tasks)], needs)
        for name in (f"model-{i}" for i in range(n_models))
    ]


def found(groups, job, address, seen=lambda _: None, **more):
    """The results by model and number; each goes to `seen` as it comes."""
    results = {}
    with closing(run_on_ray(groups, job, address=address, **more)) as finished:
        for each in finished:
            assert (each.task.model, each.task.value) not in results
            results[each.task.model, each.task.value] = each.result
            assert each.shown == f"task {each.task.value}\n"
            seen(each)
    assert not ray.is_initialized()
    return results


def begun(job):
    """Each task that began: model, number and process."""
    lines = [line.split() for line in job.begun.read_text().splitlines()]
    return [(model, int(value), process) for model, value, process in lines]


def squares(groups):
    return {(task.model, task.value): task.value**2 for group in groups for task in group.tasks}


class MadeUpModel(PlantedModel):
    """Stands for a planted model: results that follow from the names alone."""

    def __init__(self, name):
        vars(self).update(name=name, behaviour=BEHAVIOURS[planting(name).behaviour])

    def score(self, _, label):
        odds = float(sum(map(ord, self.name + label)))
        return scored((True, False, False, False), (odds,) * 6, self.name, label)

    def half_samples(self, ranking, halves):
        found = [Found(each[0] / 100, 0.2, 0.1) for each in halves]
        return [Recovery(ranking.name, 3, 100, each, each, 0.03) for each in found]


class MadeUpBench(Bench):
    """Loads no model."""

    def load(self, task):
        return MadeUpModel(task.model)
