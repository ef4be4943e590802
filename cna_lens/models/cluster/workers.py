"""Tasks on Ray: each model in a worker of its own, and this process takes the results."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from cna_lens.errors import CnaLensError, InputError
from cna_lens.models.cluster.connecting import cluster, machines_of
from cna_lens.models.cluster.placing import Amount, Machine, Needs, resources
from cna_lens.models.cluster.showing import LOADING, WAITING, Working
from cna_lens.results.provenance import library_versions

RESTARTS = 3
"""How often a model's worker that died is started again in one run."""

POLL_SECONDS = 2.0
"""How often machines that are gone are looked for while no result comes."""

Task = TypeVar("Task")


class Job(ABC, Generic[Task]):
    """The work on one kind of task, as a value that is sent to workers.

    A worker loads the model of its first task once, and runs its tasks one after the other.
    """

    @abstractmethod
    def load(self, task: Task) -> Any:
        """Load the model of a task."""

    def about(self, loaded: Any) -> Any:  # noqa: ARG002
        """Return plain data about the loaded model, for the process that checks it."""
        return None

    @abstractmethod
    def run(self, loaded: Any, task: Task) -> Any:
        """Run a task on its loaded model; returns plain data."""


@dataclass(frozen=True)
class ModelTasks(Generic[Task]):
    """The tasks of one model.

    Attributes:
        model: its name; no two groups of a run have the same.
        tasks: run in this order.
        needs: the resources of its worker.
    """

    model: str
    tasks: Sequence[Task]
    needs: Needs


@dataclass(frozen=True)
class Finished(Generic[Task]):
    """One finished task.

    Attributes:
        task: the task.
        result: its result.
        shown: what it wrote to standard output.
    """

    task: Task
    result: Any
    shown: str


def run_on_ray(
    groups: Sequence[ModelTasks[Task]],
    job: Job[Task],
    *,
    address: str,
    check: Callable[[Task, Any], None] = lambda *_: None,
    show: Callable[[Sequence[Working]], object] = lambda _: None,
    code: Sequence[Path] = (),
) -> Generator[Finished[Task]]:
    """Run tasks on a Ray cluster, as many models at a time as it has room for.

    Results come as they are finished, in no order between models. A model's resources are free for
    the next model when its tasks are finished. A worker that dies, alone or with its machine, is
    started again where there is room, up to three times, and repeats only its current task; other
    workers go on. The first error of a task ends the run. Close the generator to end all workers,
    as `contextlib.closing` does.

    Args:
        groups: the tasks, by model.
        job: loads models and runs tasks, in the workers.
        address: of a cluster, "auto" for that of this machine; "local" for one that begins and
            ends with the run.
        check: is given a model's first task and `job.about` of its loaded model before any result
            of that worker; raises an error to end the run.
        show: is told what all workers are doing, whenever that changes.
        code: folders of packages that workers import and machines have not installed.

    Raises:
        CnaLensError: Ray is not installed, there is no such cluster, a worker died too often, or
            the machines that are left are too small.
        InputError: no machine of the cluster has the resources that a model needs, or a worker has
            other versions of the libraries.
    """
    groups = [group for group in groups if group.tasks]
    if not groups:
        return
    with cluster(address, code) as ray:
        by_estimate = any(group.needs.gpus is None for group in groups)
        gpus: dict[str, int | None] | None = {} if by_estimate else None
        places = _Places(len(groups), lambda: machines_of(ray, gpus))
        asked = [places.of(group) for group in groups]
        workers = [
            _Worker(ray, group, job, each) for group, each in zip(groups, asked, strict=True)
        ]
        try:
            yield from _results(ray, workers, places, check, show)
        finally:
            for worker in workers:
                worker.end()


@dataclass(frozen=True)
class _Places:
    """The machines of a cluster, and what a model asks of them."""

    n_models: int
    machines: Callable[[], Sequence[Machine]]

    def of(self, group: ModelTasks[Any]) -> dict[str, Amount]:
        return resources(group.model, group.needs, self.machines(), self.n_models)

    def fit(self, asked: Mapping[str, Amount]) -> bool:
        return any(machine.has(asked) for machine in self.machines())


class Remote:
    """Runs tasks of one model in a process of its own."""

    def __init__(self, job: Job[Any]) -> None:
        """Load nothing yet, so that an error of loading is reported as an error of a task."""
        self._job = job
        self._loaded: Any = None

    def here(self) -> dict[str, str]:
        """The versions of the libraries."""
        return dict(library_versions())

    def load(self, task: Any) -> tuple[dict[str, str], Any]:
        """The versions of the libraries here, and what is told about the model."""
        if self._loaded is None:
            self._loaded = self._job.load(task)
        return self.here(), self._job.about(self._loaded)

    def run(self, task: Any) -> tuple[dict[str, str], Any, Any, str]:
        """The same, the result of a task, and its output on the screen."""
        # A worker that was started again has loaded nothing yet.
        versions, about = self.load(task)
        with redirect_stdout(io.StringIO()) as shown:
            result = self._job.run(self._loaded, task)
        return versions, about, result, shown.getvalue()


class _Worker:
    """The worker of one model, seen from this process."""

    def __init__(
        self, ray: Any, group: ModelTasks[Any], job: Job[Any], asked: Mapping[str, Amount]
    ) -> None:
        self.group = group
        self.finished = 0
        self.checked: Any = _NOTHING
        self._ray, self._job = ray, job
        self.start(asked)

    def start(self, asked: Mapping[str, Amount]) -> None:
        """Ask for a process with these resources; what it repeats is its current task."""
        again = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
        self.asked = asked
        self.doing = WAITING
        self._remote: Any = self._ray.remote(**asked, **again)(Remote).remote(self._job)
        self.pending: Any = self._remote.here.remote()

    def next(self) -> None:
        """Begin the step after the one that is finished."""
        if self.doing == WAITING:
            self.doing, self.pending = LOADING, self._remote.load.remote(self.task)
        else:
            self.doing, self.pending = str(self.task), self._remote.run.remote(self.task)

    @property
    def task(self) -> Any:
        return self.group.tasks[self.finished]

    @property
    def over(self) -> bool:
        return self.finished == len(self.group.tasks)

    def state(self) -> Working:
        return Working(self.group.model, self.doing, self.finished, len(self.group.tasks))

    def end(self) -> None:
        """End its process; its GPUs are for the next model."""
        self._ray.kill(self._remote)


_NOTHING = object()


def _results(
    ray: Any,
    workers: Sequence[_Worker],
    places: _Places,
    check: Callable[[Any, Any], None],
    show: Callable[[Sequence[Working]], object],
) -> Generator[Finished[Any]]:
    running = list(workers)
    show([each.state() for each in running])
    while running:
        ready, _ = ray.wait([each.pending for each in running], timeout=POLL_SECONDS)
        if not ready:
            _place_again(running, places)
        for worker in [each for each in running if each.pending in ready]:
            reply = _reply(ray, worker)
            _check_versions(worker.group.model, reply[0] if worker.doing != WAITING else reply)
            if worker.doing != WAITING and reply[1] != worker.checked:
                check(worker.task, reply[1])
                worker.checked = reply[1]
            if worker.doing not in (WAITING, LOADING):
                yield Finished(worker.task, *reply[2:])
                worker.finished += 1
            if worker.over:
                running.remove(worker)
                worker.end()
            else:
                worker.next()
        show([each.state() for each in running])


def _reply(ray: Any, worker: _Worker) -> Any:
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(worker.pending)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise CnaLensError(
            f"Ray gave up on {worker.task}, after up to {RESTARTS} new workers for that model; "
            "what is finished is kept, and the same command goes on from it. Ray says: "
            f"{error}"
        ) from error


def _place_again(running: Sequence[_Worker], places: _Places) -> None:
    """Ask for less where the machines that are left have less.

    Raises:
        CnaLensError: none of the models fits any machine that is left.
    """
    homeless = [worker for worker in running if not places.fit(worker.asked)]
    errors: list[InputError] = []
    for worker in homeless:
        try:
            asked = places.of(worker.group)
        except InputError as error:
            errors.append(error)
        else:
            worker.end()
            worker.start(asked)
    # As long as others run, a machine may come back.
    if errors and len(errors) == len(running):
        raise CnaLensError(
            f"a machine of the Ray cluster was lost, and {errors[0]}; what is finished is kept, "
            "and the same command goes on from it"
        ) from errors[0]


def _check_versions(model: str, theirs: Mapping[str, str]) -> None:
    for name, version in library_versions():
        if theirs.get(name) != version:
            raise InputError(
                f"the worker of {model} has {name} {theirs.get(name)}, and this process "
                f"{version}; install the same versions on all machines"
            )
