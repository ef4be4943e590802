"""Rankings on models whose behaviour sits in known neurons: what they find, and what it does."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, cast

from cna_lens.discovery.rankings.protocol import Ranking, described
from cna_lens.errors import InputError
from cna_lens.evidence import planted_model
from cna_lens.evidence.known_truth import Recovery
from cna_lens.evidence.league import League, Scored
from cna_lens.evidence.planted_model import PlantedModel, has_metric
from cna_lens.metrics.behaviours import BEHAVIOURS, Behaviour
from cna_lens.metrics.first_token import LogOdds
from cna_lens.models.cluster.placing import Needs
from cna_lens.models.cluster.showing import Working
from cna_lens.models.cluster.workers import Job, ModelTasks, run_on_ray
from cna_lens.models.estimate import Requirements, requirements
from cna_lens.models.loading.planted import Split, planted_models, planting, planting_sha256
from cna_lens.results.journal import Journal
from cna_lens.results.provenance import library_versions

PACKAGE = Path(inspect.getfile(Ranking)).parents[2]
SCORED_BY = ("evidence", "metrics", "steering", "models/running")
"""Rooms of the package whose code a result comes from, beside the ranking's own."""


def bench_rankings(
    rankings: Sequence[Ranking],
    *,
    split: Split = "reporting",
    models: Sequence[str] | None = None,
    journal: Path | None = None,
    n_half_samples: int = 0,
    seed: int = 0,
    device: str | None = None,
    started: Callable[[str], None] = lambda _: None,
    ray: str | None = None,
    show: Callable[[Sequence[Working]], object] = lambda _: None,
) -> League:
    """Run rankings on planted models, whose true neurons are known.

    A ranking reads the discovery prompts of the model's behaviour, see `BEHAVIOURS`. Where it has
    the metric `LogOdds()`, it gets that of the behaviour's openings instead of refusal's. All
    effects are measured on the behaviour's evaluation prompts.

    Args:
        rankings: the rankings.
        split: "tuning" for models on which settings may be chosen, "reporting" for all others.
        models: names of planted models of this split; by default all of them.
        journal: a folder of finished results, with a file for each model, from which an interrupted
            run goes on. Several processes may share it if no two run the same model.
        n_half_samples: random halves of the discovery prompts from which the neurons are ranked
            again, for standard errors over prompts. Activations are not read again; gradients and
            answers are, so that each half costs half of what they do. A half has pairs of a
            positive and a negative prompt, and all pairs of an item or none.
        seed: of the halves.
        device: as for `load_model`.
        started: is told the name of each model and ranking before it runs in this process.
        ray: address of a Ray cluster on which models run side by side, "local" for one that begins
            and ends with the run; None to run in this process. This process writes the journal. A
            ranking of your own is sent to the workers; modules that it imports must be there.
        show: is told what all workers on Ray are doing, whenever that changes; see `WorkerRows`.

    Raises:
        InputError: a model is of the other split or does not exist; a model or ranking is named
            twice; there is no ranking; there would be one half-sample, which has no spread; a
            ranking has a metric of its own, which would ask for another behaviour; the journal is
            of another split, other versions or another bench; with Ray, also as for `run_on_ray`,
            or the device is one certain GPU.
        CnaLensError: with Ray, as for `run_on_ray`.
    """
    names, labels = checked(rankings, split, models, n_half_samples)
    depends_on = {
        "split": split,
        "versions": dict(library_versions()),
        "max_new_tokens": planted_model.MAX_NEW_TOKENS,
        "fractions": planted_model.FRACTIONS,
        "n_prompts": (
            planted_model.N_KL_PROMPTS,
            planted_model.N_HALF,
            planted_model.N_CURVE_PROMPTS,
        ),
        "code": _hash(*(PACKAGE / each for each in SCORED_BY)),
    }
    entries: list[_Entry] = []
    for name in names:
        file = None if journal is None else journal / f"{name.rpartition('/')[2]}.jsonl"
        known = Journal(file, "bench", depends_on)
        on = f"{name} {planting_sha256(name)} {device} {_prompts_hash(name)}"
        for ranking, label in zip(rankings, labels, strict=True):
            task = BenchTask(f"{on} {_key(ranking)}", name, ranking, label, device)
            entries.append(_Entry(known, task))
            if n_half_samples:
                key = f"{task.key} {n_half_samples} halves, seed {seed}"
                task = replace(task, key=key, n_half_samples=n_half_samples, seed=seed)
                entries.append(_Entry(known, task))
    missing = [each.task for each in entries if each.task.key not in each.known]
    journals = {each.task.model: each.known for each in entries}
    ran = _in_process(missing, started) if ray is None else _on_ray(missing, ray, device, show)
    with closing(ran):
        for task, record in ran:
            journals[task.model].add(task.key, record)
    scored: list[Scored] = []
    for each in entries:
        record = each.known[each.task.key]
        if each.task.n_half_samples:
            halves = tuple(map(Recovery.from_record, record["halves"]))
            scored[-1] = replace(scored[-1], half_samples=halves)
        else:
            scored.append(Scored.from_record(record))
    return League(split, tuple(scored))


@dataclass(frozen=True)
class _Entry:
    """A task, and the journal that has its record or lacks it."""

    known: Journal
    task: BenchTask


@dataclass(frozen=True)
class BenchTask:
    """One record of the bench: a ranking on a model, or the same in halves of the prompts.

    Attributes:
        key: the record's key in the journal of the model.
        model: the planted model's name.
        ranking: the ranking.
        label: its name and settings.
        device: as for `load_model`.
        n_half_samples: number of halves; 0 to rank by all prompts and ablate.
        seed: of the halves.
    """

    key: str
    model: str
    ranking: Ranking
    label: str
    device: str | None
    n_half_samples: int = 0
    seed: int = 0

    def __str__(self) -> str:
        """One useful line."""
        return f"{self.label}, half-samples" if self.n_half_samples else self.label


class Bench(Job[BenchTask]):
    """Loads planted models and runs the tasks of the bench."""

    def load(self, task: BenchTask) -> PlantedModel:
        """The model of a task, with the discovery prompts read."""
        return PlantedModel.load(task.model, task.device)

    def run(self, loaded: PlantedModel, task: BenchTask) -> dict[str, Any]:
        """The record of a task."""
        if not task.n_half_samples:
            return loaded.score(task.ranking, task.label).record()
        halves = _halves(loaded.behaviour, task.n_half_samples, task.seed)
        return {"halves": [asdict(each) for each in loaded.half_samples(task.ranking, halves)]}


Ran = Generator[tuple[BenchTask, dict[str, Any]]]


def _in_process(tasks: Sequence[BenchTask], started: Callable[[str], None]) -> Ran:
    job, name, loaded = Bench(), "", None
    for task in tasks:
        started(f"{task.model}: {task}")
        if task.model != name:
            # One model at a time in memory.
            loaded = None
            name, loaded = task.model, job.load(task)
        yield task, job.run(cast("PlantedModel", loaded), task)


def _on_ray(
    tasks: Sequence[BenchTask],
    address: str,
    device: str | None,
    show: Callable[[Sequence[Working]], object],
) -> Ran:
    if device not in (None, "cpu", "cuda"):
        raise InputError(f"device is {device!r}; Ray chooses which GPU: give 'cpu' or 'cuda'")
    by_model: dict[str, list[BenchTask]] = {}
    for task in tasks:
        by_model.setdefault(task.model, []).append(task)
    groups = [
        ModelTasks(name, mine, Needs(0 if device == "cpu" else None, estimate=_estimate))
        for name, mine in by_model.items()
    ]
    with closing(run_on_ray(groups, Bench(), address=address, show=show)) as finished:
        for each in finished:
            yield each.task, each.result


@cache
def _estimate(device: Literal["cuda", "cpu"]) -> Requirements:
    # Behaviours are planted in the demo model, and change none of its shapes.
    return requirements("demo", device=device, new_tokens=planted_model.MAX_NEW_TOKENS)


def checked(
    rankings: Sequence[Ranking], split: Split, models: Sequence[str] | None, n_half_samples: int
) -> tuple[Sequence[str], Sequence[str]]:
    """The names of the models and the labels of the rankings, if all can be run.

    Raises:
        InputError: as for `bench_rankings`, but for the journal.
    """
    if isinstance(models, str):
        raise InputError(f"models is {models!r}, expected several: [{models!r}]")
    names = models_of(split, models)
    if not isinstance(cast("object", rankings), Sequence) or isinstance(rankings, str):
        raise InputError(f"rankings is {rankings!r}, expected several: [{rankings!r}]")
    if not rankings:
        raise InputError("there is no ranking to run; give at least one")
    for ranking in cast("Sequence[object]", rankings):
        if isinstance(ranking, type) or not isinstance(ranking, Ranking):
            raise InputError(f"rankings has {ranking!r}, expected rankings such as Contrast()")
    if not isinstance(n_half_samples, Integral) or n_half_samples < 0 or n_half_samples == 1:
        raise InputError(
            f"n_half_samples is {n_half_samples}, expected 0 or at least 2: one value has no spread"
        )
    labels = [_label(ranking) for ranking in rankings]
    for given in (names, labels):
        if twice := [each for each in given if given.count(each) > 1]:
            raise InputError(f"{twice[0]} is named twice; name each model and ranking once")
    return names, labels


def _label(ranking: Ranking) -> str:
    """A ranking's name and settings; the bench itself sets a metric, which is left out."""
    if not has_metric(ranking):
        return described(ranking)
    if cast("Any", ranking).metric != LogOdds():
        raise InputError(
            f"{described(ranking)} has a metric of its own; the bench sets the metric of each "
            "model's behaviour, so leave it at LogOdds()"
        )
    return described(ranking, leave_out=["metric"])


def _key(ranking: Ranking) -> str:
    """A ranking's label and the hash of the files it is written in: an edited one runs again."""
    files = {
        Path(code.co_filename)
        for each in type(ranking).__mro__
        for method in vars(each).values()
        if (code := getattr(inspect.unwrap(method) if callable(method) else None, "__code__", None))
    }
    own = Path(inspect.getfile(Ranking)).parents[1]
    # A packaged ranking is spread over several files of its room.
    sources = {own if own in each.parents else each for each in files if each.is_file()}
    return f"{_label(ranking)} {_hash(*sources)}"


def _hash(*sources: Path) -> str:
    """The hash of files, and of all Python files of folders."""
    files = {file for each in sources for file in (each.rglob("*.py") if each.is_dir() else [each])}
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _prompts_hash(name: str) -> str:
    """The hash of what a planted model is asked, and of the openings that count."""
    behaviour = BEHAVIOURS[cast("str", planting(name).behaviour)]
    parts = behaviour.discovery, behaviour.evaluation
    asked = [(part.positive, part.negative) for part in parts]
    return hashlib.sha256(repr((asked, behaviour.openings)).encode()).hexdigest()[:16]


def _halves(behaviour: Behaviour, n: int, seed: int) -> list[list[int]]:
    """Places of the prompts of random halves of the items, each with all its pairs of prompts."""
    rng, width = random.Random(seed), behaviour.n_of_item
    items = range(0, len(behaviour.discovery.positive), width)
    drawn = [sorted(rng.sample(items, len(items) // 2)) for _ in range(n)]
    return [[first + more for first in chosen for more in range(width)] for chosen in drawn]


def models_of(split: Split, models: Sequence[str] | None = None) -> Sequence[str]:
    """The planted models of a split that have a behaviour, or those of them that are named.

    Raises:
        InputError: a named model is of the other split, has no behaviour or does not exist.
    """
    if models is None:
        models = [name for name in planted_models(split) if planting(name).behaviour is not None]
    for name in models:
        planted = planting(name)
        if planted.split != split:
            raise InputError(
                f"{name} is of the split {planted.split!r}, not of {split!r}; settings that were "
                "chosen on one split are reported on the other"
            )
        if planted.behaviour is None:
            raise InputError(f"nothing is planted in {name}; name a model with a behaviour")
    return models
