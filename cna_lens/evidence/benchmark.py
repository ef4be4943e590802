"""Rankings on models whose behaviour sits in known neurons: what they find, and what it does."""

from __future__ import annotations

import hashlib
import inspect
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Final, cast

from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.discovery.activations.sets import encode_sets
from cna_lens.discovery.collection import collect
from cna_lens.discovery.rankings.protocol import Ranking, described
from cna_lens.discovery.rankings.scoring import score_neurons
from cna_lens.errors import InputError
from cna_lens.evidence.faithfulness import Ablations, necessity
from cna_lens.evidence.known_truth import recovery
from cna_lens.evidence.league import Cost, Effect, League, OtherAblations, Scored
from cna_lens.metrics.behaviours import BEHAVIOURS, Behaviour
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, refusal_log_odds
from cna_lens.metrics.likelihood import kl_per_token
from cna_lens.metrics.quality import ngram_quality
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.loading.load import load_model
from cna_lens.models.loading.planted import (
    Split,
    planted_models,
    planted_truth,
    planting,
    planting_sha256,
)
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.models.prompts.sets import PromptSet
from cna_lens.models.running.generation import generate
from cna_lens.results.circuit import Circuit
from cna_lens.results.journal import Journal
from cna_lens.results.neurons import AnyNeuron
from cna_lens.results.provenance import library_versions
from cna_lens.results.scores import NeuronScores
from cna_lens.steering.methods.controls import matched_random
from cna_lens.steering.scaling import steer

MAX_NEW_TOKENS: Final = 12
FRACTIONS: Final = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""Shares of all neurons at which the faithfulness is taken."""
N_KL_PROMPTS: Final = 12
"""Negative prompts along whose answers the KL is taken."""
N_HALF: Final = 20
"""Positive prompts for log-odds, and for the effect of the neurons that were not planted."""
N_CURVE_PROMPTS: Final = 4
"""Positive prompts for the faithfulness, which takes two passes over each for every share."""


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
        journal: a file of finished results, from which an interrupted run goes on.
        n_half_samples: random halves of the discovery prompts from which the neurons are ranked
            again, for standard errors over prompts. Each costs half of a ranking's time. A half
            has pairs of a positive and a negative prompt, and all pairs of an item or none.
        seed: of the halves.
        device: as for `load_model`.
        started: is told the name of each model and ranking before it runs.

    Raises:
        InputError: a model is of the other split or does not exist; a model or ranking is named
            twice; there is no ranking; there would be one half-sample, which has no spread; a
            ranking has a metric of its own, which would ask for another behaviour; or the journal
            is of another split, other versions or another bench.
    """
    names = _of_split(split, models)
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
    depends_on = {
        "split": split,
        "versions": dict(library_versions()),
        "max_new_tokens": MAX_NEW_TOKENS,
        "fractions": FRACTIONS,
        "n_prompts": (N_KL_PROMPTS, N_HALF, N_CURVE_PROMPTS),
        "code": _hash(Path(__file__).parent, Path(inspect.getfile(Behaviour))),
    }
    known = Journal(journal, "bench", depends_on)
    scored: list[Scored] = []
    for name in names:
        halves = f"{n_half_samples} halves, seed {seed}" if n_half_samples else "no halves"
        on = f"{name} {planting_sha256(name)} {device} {halves} {_prompts_hash(name)}"
        keys = [f"{on} {_key(ranking)}" for ranking in rankings]
        bench = None
        for ranking, label, key in zip(rankings, labels, keys, strict=True):
            if key not in known:
                bench = bench or _Bench.of(name, device, started)
                started(f"{name}: {label}")
                drawn = _halves(bench.behaviour, n_half_samples, seed)
                known.add(key, bench.score(ranking, label, drawn).record())
            scored.append(Scored.from_record(known[key]))
    return League(split, tuple(scored))


def _label(ranking: Ranking) -> str:
    """A ranking's name and settings; the bench itself sets a metric, which is left out."""
    if not _has_metric(ranking):
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


def _halves(behaviour: Behaviour, n: int, seed: int) -> Sequence[PromptSet]:
    """Random halves of the items of the discovery prompts, each with all its pairs of prompts."""
    rng, sets, width = random.Random(seed), behaviour.discovery, behaviour.n_of_item
    items = range(0, len(sets.positive), width)
    found: list[PromptSet] = []
    for _ in range(n):
        chosen = sorted(rng.sample(items, len(items) // 2))
        places = [first + more for first in chosen for more in range(width)]
        positive, negative = (
            tuple(side[place] for place in places) for side in (sets.positive, sets.negative)
        )
        found.append(replace(sets, positive=positive, negative=negative))
    return found


def _has_metric(ranking: Ranking) -> bool:
    return isinstance(getattr(ranking, "metric", None), FirstTokenMetric)


@dataclass(frozen=True)
class _Bench:
    """One planted model with what all rankings share."""

    name: str
    model: HookedModel
    behaviour: Behaviour
    truth: Circuit
    means: ActivationStats
    answers: Sequence[str]
    before: Effect
    oracle: Effect
    oracle_otherwise: OtherAblations

    @classmethod
    def of(cls, name: str, device: str | None, started: Callable[[str], None]) -> _Bench:
        """Measure the model as it is, and without its planted neurons."""
        behaviour = BEHAVIOURS[cast("str", planting(name).behaviour)]
        started(f"{name}: without ablation")
        model, truth = load_model(name, device=device), planted_truth(name)
        means = collect(model, behaviour.discovery.negative)
        asked = behaviour.evaluation.negative[:N_KL_PROMPTS]
        answers = generate(model, asked, max_new_tokens=MAX_NEW_TOKENS)
        before = _effect(model, behaviour, answers, nullcontext)
        started(f"{name}: the planted neurons")
        oracle = _effect(model, behaviour, answers, lambda: steer(model, truth, 0.0))
        otherwise = _otherwise(model, behaviour, truth, means)
        return cls(name, model, behaviour, truth, means, answers, before, oracle, otherwise)

    def score(self, ranking: Ranking, label: str, halves: Sequence[PromptSet]) -> Scored:
        """Rank, compare with the truth, and ablate."""
        model, behaviour, truth = self.model, self.behaviour, self.truth
        sets = behaviour.discovery
        if _has_metric(ranking):
            ranking = replace(cast("Any", ranking), metric=LogOdds(behaviour.openings))

        def scores_from(sets: PromptSet) -> NeuronScores:
            return score_neurons(model, sets.positive, sets.negative, ranking)

        with counted(model, sets.positive, sets.negative) as cost:
            scores = scores_from(sets)
        chosen = scores.top(k=min(len(truth), _n_scored(scores)))
        others = [neuron for neuron in chosen if neuron not in set(truth)]
        alone = Circuit(tuple(others), (1.0,) * len(others), truth.layout, truth.provenance)

        def shown(circuit: Circuit) -> tuple[bool, ...] | None:
            if not len(circuit):
                return None
            with steer(model, circuit, 0.0):
                return _shown(model, behaviour, N_HALF)[0]

        decoy = planting(self.name).decoy
        curves = _curves(model, behaviour, scores, self.means)
        return Scored(
            model=self.name,
            ranking=label,
            recovery=recovery(scores, truth),
            half_samples=tuple(recovery(scores_from(half), truth) for half in halves),
            in_decoy=None if decoy is None else len({*chosen} & {*decoy.neurons}) / len(chosen),
            before=self.before,
            oracle=self.oracle,
            chosen=_effect(model, behaviour, self.answers, lambda: steer(model, chosen, 0.0)),
            oracle_otherwise=self.oracle_otherwise,
            chosen_otherwise=_otherwise(model, behaviour, chosen, self.means),
            unplanted=shown(alone),
            random=shown(_control(alone, truth)) if others else None,
            fractions=FRACTIONS,
            faithfulness=tuple(point.faithfulness.value for point in curves),
            without=tuple(point.completeness.value for point in curves),
            cost=cost(),
        )


@contextmanager
def counted(
    model: HookedModel, positive: Sequence[Prompt], negative: Sequence[Prompt]
) -> Generator[Callable[[], Cost]]:
    """Count the tokens that pass the last block forward and backward, and take the time.

    >>> with counted(tiny_model, [[5, 6]], [[7, 8]]) as cost:
    ...     _ = score_neurons(tiny_model, [[5, 6]], [[7, 8]])
    >>> cost().forward, cost().backward
    (1.0, 0.0)

    Args:
        model: the model that runs inside the context.
        positive: the positive prompts; passes are counted in units of the tokens of both sets.
        negative: the negative prompts.
    """
    encoded = encode_sets(model, positive, negative, "auto")
    n_tokens = sum(len(ids) for each in encoded for ids in each.ids)
    passed = {"forward": 0, "backward": 0}

    def enters(_: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        passed["forward"] += _n_tokens((*inputs, *named.values()))

    def leaves(_: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
        parts = output if isinstance(output, tuple) else (output,)
        residual = next(each for each in parts if isinstance(each, Tensor))
        n = _n_tokens(parts)
        if residual.requires_grad:
            residual.register_hook(lambda _: passed.update(backward=passed["backward"] + n))

    begun, ended = time.perf_counter(), None
    block = cast("Any", model).blocks[-1]
    hooks = (
        block.register_forward_pre_hook(enters, with_kwargs=True),
        block.register_forward_hook(leaves),
    )
    try:
        yield lambda: Cost(
            passed["forward"] / n_tokens, passed["backward"] / n_tokens, (ended or 0.0) - begun
        )
    finally:
        ended = time.perf_counter()
        for hook in hooks:
            hook.remove()


def _n_tokens(values: Sequence[Any]) -> int:
    residual = next(each for each in values if isinstance(each, Tensor))
    return residual.shape[:-1].numel()


def _of_split(split: Split, models: Sequence[str] | None) -> Sequence[str]:
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


def _control(chosen: Circuit, truth: Circuit) -> Circuit:
    """As many random neurons in each layer as were chosen there, of which none was planted."""
    neurons = tuple(dict.fromkeys((*chosen, *truth)))
    drawn = matched_random(replace(truth, neurons=neurons, scores=(1.0,) * len(neurons)))
    wanted = Counter(neuron.layer for neuron in chosen)
    taken: list[AnyNeuron] = []
    for neuron in drawn:
        if wanted[neuron.layer] > 0:
            wanted[neuron.layer] -= 1
            taken.append(neuron)
    return replace(truth, neurons=tuple(taken), scores=(1.0,) * len(taken))


def _effect(
    model: HookedModel,
    behaviour: Behaviour,
    answers: Sequence[str],
    steering: Callable[[], AbstractContextManager[Any]],
) -> Effect:
    asked = behaviour.evaluation.negative[: len(answers)]
    with steering():
        shown, quality = _shown(model, behaviour)
        odds = _log_odds(model, behaviour)
    divergences = [
        value for value in kl_per_token(model, steering, asked, answers) if value is not None
    ]
    return Effect(shown, odds, fmean(divergences), quality)


def _shown(
    model: HookedModel, behaviour: Behaviour, n: int | None = None
) -> tuple[tuple[bool, ...], float | None]:
    texts = generate(model, behaviour.evaluation.positive[:n], max_new_tokens=MAX_NEW_TOKENS)
    qualities = [value for value in map(ngram_quality, texts) if value is not None]
    return tuple(map(behaviour.shown, texts)), fmean(qualities) if qualities else None


def _log_odds(model: HookedModel, behaviour: Behaviour) -> float:
    asked = behaviour.evaluation.positive[:N_HALF]
    return fmean(refusal_log_odds(model, asked, openings=behaviour.openings))


def _otherwise(
    model: HookedModel, behaviour: Behaviour, circuit: Circuit, means: ActivationStats
) -> OtherAblations:
    def log_odds(*multiplier: float, **how: Any) -> float:
        with steer(model, circuit, *multiplier, **how):
            return _log_odds(model, behaviour)

    return OtherAblations(
        mean=log_odds(values=means),
        last_prompt_zero=log_odds(0.0, positions="last_prompt"),
        last_prompt_mean=log_odds(values=means, positions="last_prompt"),
    )


def _curves(
    model: HookedModel, behaviour: Behaviour, scores: NeuronScores, means: ActivationStats
) -> Sequence[Ablations]:
    def metric(model: HookedModel, prompts: Sequence[Any]) -> list[float]:
        return refusal_log_odds(model, prompts, openings=behaviour.openings)

    n, scored = scores.layout.n_neurons, _n_scored(scores)
    # Where a ranking has no more neurons, all of them are taken.
    sizes = [min(scored, max(1, round(share * n))) for share in FRACTIONS]
    points = necessity(
        model,
        behaviour.evaluation.positive[:N_CURVE_PROMPTS],
        {scores.method: scores},
        metric,
        means,
        sizes=sorted(set(sizes)),
        n_resamples=50,
        progress=False,
    ).points
    by_size = {point.k: point for point in points}
    return [by_size[size] for size in sizes]


def _n_scored(scores: NeuronScores) -> int:
    """The number of neurons that may be chosen; a ranking such as the probe scores only some."""
    return scores.layout.n_neurons if scores.eligible is None else int(scores.eligible.sum())
