"""Rankings on models whose behaviour sits in known neurons: what they find, and what it does."""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from cna_lens.discovery.rankings.protocol import Ranking, described
from cna_lens.errors import InputError
from cna_lens.evidence import planted_model
from cna_lens.evidence.known_truth import Recovery
from cna_lens.evidence.league import League, Scored
from cna_lens.evidence.planted_model import PlantedModel, has_metric
from cna_lens.metrics.behaviours import BEHAVIOURS, Behaviour
from cna_lens.metrics.first_token import LogOdds
from cna_lens.models.loading.planted import Split, planted_models, planting, planting_sha256
from cna_lens.results.journal import Journal
from cna_lens.results.provenance import library_versions


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
        started: is told the name of each model and ranking before it runs.

    Raises:
        InputError: a model is of the other split or does not exist; a model or ranking is named
            twice; there is no ranking; there would be one half-sample, which has no spread; a
            ranking has a metric of its own, which would ask for another behaviour; or the journal
            is of another split, other versions or another bench.
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
        "code": _hash(Path(__file__).parent, Path(inspect.getfile(Behaviour))),
    }
    scored: list[Scored] = []
    for name in names:
        file = None if journal is None else journal / f"{name.rpartition('/')[2]}.jsonl"
        known = Journal(file, "bench", depends_on)
        on = f"{name} {planting_sha256(name)} {device} {_prompts_hash(name)}"
        loaded = None
        for ranking, label in zip(rankings, labels, strict=True):
            key = f"{on} {_key(ranking)}"
            in_halves = f"{key} {n_half_samples} halves, seed {seed}"
            if key not in known or (n_half_samples and in_halves not in known):
                started(f"{name}: {label}")
                loaded = loaded or PlantedModel.load(name, device)
                if key not in known:
                    known.add(key, loaded.score(ranking, label).record())
                if n_half_samples and in_halves not in known:
                    halves = _halves(loaded.behaviour, n_half_samples, seed)
                    found = loaded.half_samples(ranking, halves)
                    known.add(in_halves, {"halves": [asdict(each) for each in found]})
            result = Scored.from_record(known[key])
            if n_half_samples:
                halves = tuple(map(Recovery.from_record, known[in_halves]["halves"]))
                result = replace(result, half_samples=halves)
            scored.append(result)
    return League(split, tuple(scored))


def checked(
    rankings: Sequence[Ranking], split: Split, models: Sequence[str] | None, n_half_samples: int
) -> tuple[Sequence[str], Sequence[str]]:
    """The names of the models and the labels of the rankings, if all can be run.

    Raises:
        InputError: as for `bench_rankings`, but for the journal.
    """
    names = models_of(split, models)
    if not rankings:
        raise InputError("there is no ranking to run; give at least one")
    if n_half_samples < 0 or n_half_samples == 1:
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
