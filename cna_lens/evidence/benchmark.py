"""Rankings on models whose behaviour sits in known neurons: what they find, and what it does."""

from __future__ import annotations

import hashlib
import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.discovery.collection import collect
from cna_lens.discovery.rankings.protocol import Ranking, described
from cna_lens.discovery.rankings.scoring import score_neurons
from cna_lens.errors import InputError
from cna_lens.evidence.faithfulness import Ablations, necessity
from cna_lens.evidence.known_truth import Found, Recovery, recovery
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
from cna_lens.models.running.generation import generate
from cna_lens.results.circuit import Circuit
from cna_lens.results.journal import Journal
from cna_lens.results.neurons import AnyNeuron
from cna_lens.results.provenance import library_versions
from cna_lens.results.scores import NeuronScores
from cna_lens.results.statistics import Estimate, bootstrap_mean
from cna_lens.steering.methods.controls import matched_random
from cna_lens.steering.scaling import steer

if TYPE_CHECKING:
    import pandas as pd

MAX_NEW_TOKENS: Final = 16
FRACTIONS: Final = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""Shares of all neurons at which the faithfulness is taken."""
N_KL_PROMPTS: Final = 20
"""Negative prompts along whose answers the KL is taken."""
LEAST_RATE: Final = 0.1
LEAST_NATS: Final = 0.5
"""A smaller effect of the planted neurons is not divided by."""
N_CURVE_PROMPTS: Final = 8
"""Positive prompts for the faithfulness, which takes two passes over each for every share."""


@dataclass(frozen=True)
class Effect:
    """What ablating a set of neurons at all positions does, on prompts that no ranking has read.

    Attributes:
        shown: whether the answer to each positive prompt still shows the behaviour.
        log_odds: the mean log-odds of its first tokens on positive prompts, in nats.
        kl: mean KL per token from the model as it was, along its answers to negative prompts, in
            nats.
        quality: mean n-gram quality of the answers to positive prompts; None where all of them are
            too short to have one.
    """

    shown: tuple[bool, ...]
    log_odds: float
    kl: float
    quality: float | None

    @property
    def rate(self) -> float:
        """The share of positive prompts whose answers show the behaviour."""
        return fmean(self.shown)


@dataclass(frozen=True)
class Scored:
    r"""One ranking on one planted model.

    Attributes:
        model: the planted model's name.
        ranking: the ranking's name and settings.
        recovery: how well it finds the planted neurons.
        before: the behaviour with no neuron ablated.
        oracle: the effect of ablating the planted neurons, k of them.
        chosen: the effect of ablating the k neurons that the ranking puts first.
        unplanted: whether answers show the behaviour when only those of the k that were not planted
            are ablated; None where all were planted.
        random: the same for as many random neurons of the same layers, of which none was planted.
        at_last_prompt: mean log-odds with the k neurons set to their mean on negative prompts at
            the last prompt token alone.
        oracle_at_last_prompt: the same for the planted neurons.
        fractions: the shares of all neurons at which the faithfulness was taken.
        faithfulness: $f = (m(C) - m(\emptyset)) / (m(N) - m(\emptyset))$ for the neurons C
            that the ranking puts first. They keep their activations, and all other neurons have
            their means on negative prompts (after MIB, arXiv 2504.13151). The means are those of
            the last prompt token, and neurons have them at all positions.
        without: what is left of the metric on the same scale if C has its means and all other
            neurons are kept; 0 if C does everything.
        seconds: time for the scores.
    """

    model: str
    ranking: str
    recovery: Recovery
    before: Effect
    oracle: Effect
    chosen: Effect
    unplanted: tuple[bool, ...] | None
    random: tuple[bool, ...] | None
    at_last_prompt: float
    oracle_at_last_prompt: float
    fractions: tuple[float, ...]
    faithfulness: tuple[float, ...]
    without: tuple[float, ...]
    seconds: float

    @property
    def share_of_oracle(self) -> float:
        """Behaviour lost by the ranking's neurons over that lost by the planted ones.

        Not a number where the planted ones lose less than `LEAST_RATE`.
        """
        lost = self.before.rate - self.oracle.rate
        return (self.before.rate - self.chosen.rate) / lost if lost >= LEAST_RATE else math.nan

    @property
    def cpr(self) -> float:
        """Mean faithfulness over the logarithm of the share of neurons, from .03 to 10 %.

        MIB's CPR is the area over shares up to 100 %; here small sets have more weight.
        """
        return _area(self.fractions, self.faithfulness)

    @property
    def cmd(self) -> float:
        """Mean distance of the faithfulness from 1 on the same scale; 0 is best."""
        return _area(self.fractions, [abs(1 - value) for value in self.faithfulness])

    def record(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Scored:
        """Restore the result from its record."""
        given: dict[str, Any] = {each.name: record[each.name] for each in fields(cls)}
        for name in ("before", "oracle", "chosen"):
            effect: dict[str, Any] = dict(given[name])
            effect["shown"] = tuple(effect["shown"])
            given[name] = Effect(**effect)
        found = dict(given["recovery"])
        for name in ("overall", "within_layers"):
            found[name] = Found(**found[name])
        given["recovery"] = Recovery(**found)
        for name in ("unplanted", "random", "fractions", "faithfulness", "without"):
            given[name] = None if given[name] is None else tuple(given[name])
        return cls(**given)


@dataclass(frozen=True)
class League:
    """Rankings on the planted models of one split.

    Attributes:
        split: of the models.
        scored: one for each ranking and model.
    """

    split: Split
    scored: tuple[Scored, ...]

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each ranking and model."""
        import pandas as pd

        return pd.DataFrame([_row(each) for each in self.scored])

    def means(self) -> dict[str, dict[str, Estimate]]:
        """The mean of each figure over the models, by ranking; intervals are over models."""
        found: dict[str, dict[str, Estimate]] = {}
        for ranking in dict.fromkeys(each.ranking for each in self.scored):
            rows = [_figures(each) for each in self.scored if each.ranking == ranking]
            found[ranking] = {
                name: bootstrap_mean([row[name] for row in rows if not math.isnan(row[name])])
                for name in rows[0]
                if any(not math.isnan(row[name]) for row in rows)
            }
        return found


def bench_rankings(
    rankings: Sequence[Ranking],
    *,
    split: Split = "reporting",
    models: Sequence[str] | None = None,
    journal: Path | None = None,
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
        device: as for `load_model`.
        started: is told the name of each model and ranking before it runs.

    Raises:
        InputError: a model is of the other split or does not exist; a model or ranking is named
            twice; there is no ranking; or a ranking has a metric of its own, which would ask for
            another behaviour.
    """
    names = _of_split(split, models)
    if not rankings:
        raise InputError("there is no ranking to run; give at least one")
    labels = [_label(ranking) for ranking in rankings]
    for given in (names, labels):
        if twice := [each for each in given if given.count(each) > 1]:
            raise InputError(f"{twice[0]} is named twice; name each model and ranking once")
    depends_on = {
        "split": split,
        "versions": dict(library_versions()),
        "max_new_tokens": MAX_NEW_TOKENS,
        "fractions": FRACTIONS,
        "n_prompts": (N_KL_PROMPTS, N_CURVE_PROMPTS),
    }
    known = Journal(journal, "bench", depends_on)
    scored: list[Scored] = []
    for name in names:
        keys = [f"{name} {planting_sha256(name)} {_key(ranking)}" for ranking in rankings]
        bench = None
        for ranking, label, key in zip(rankings, labels, keys, strict=True):
            if key not in known:
                bench = bench or _Bench.of(name, device, started)
                started(f"{name}: {label}")
                known.add(key, bench.score(ranking, label).record())
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
    others = [each for each in fields(cast("Any", ranking)) if each.name != "metric"]
    settings = ", ".join(f"{each.name}={getattr(ranking, each.name)!r}" for each in others)
    return f"{ranking.name}({settings})" if settings else ranking.name


def _key(ranking: Ranking) -> str:
    """A ranking's label and the hash of the file it is written in: an edited one runs again."""
    code = getattr(inspect.unwrap(type(ranking).score), "__code__", None)
    file = None if code is None else Path(code.co_filename)
    source = file.read_bytes() if file is not None and file.is_file() else b""
    return f"{_label(ranking)} {hashlib.sha256(source).hexdigest()[:16]}"


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
    oracle_at_last_prompt: float

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
        at_last_prompt = _at_last_prompt(model, behaviour, truth, means)
        return cls(name, model, behaviour, truth, means, answers, before, oracle, at_last_prompt)

    def score(self, ranking: Ranking, label: str) -> Scored:
        """Rank, compare with the truth, and ablate."""
        model, behaviour, truth = self.model, self.behaviour, self.truth
        sets = behaviour.discovery
        if _has_metric(ranking):
            ranking = replace(cast("Any", ranking), metric=LogOdds(behaviour.openings))
        begun = time.perf_counter()
        scores = score_neurons(model, sets.positive, sets.negative, ranking)
        seconds = time.perf_counter() - begun
        chosen = scores.top(k=len(truth))
        others = [neuron for neuron in chosen if neuron not in set(truth)]
        alone = Circuit(tuple(others), (1.0,) * len(others), truth.layout, truth.provenance)

        def shown(circuit: Circuit) -> tuple[bool, ...] | None:
            if not len(circuit):
                return None
            with steer(model, circuit, 0.0):
                return _shown(model, behaviour)[0]

        curves = _curves(model, behaviour, scores, self.means)
        return Scored(
            model=self.name,
            ranking=label,
            recovery=recovery(scores, truth),
            before=self.before,
            oracle=self.oracle,
            chosen=_effect(model, behaviour, self.answers, lambda: steer(model, chosen, 0.0)),
            unplanted=shown(alone),
            random=shown(_control(alone, truth)) if others else None,
            at_last_prompt=_at_last_prompt(model, behaviour, chosen, self.means),
            oracle_at_last_prompt=self.oracle_at_last_prompt,
            fractions=FRACTIONS,
            faithfulness=tuple(point.faithfulness.value for point in curves),
            without=tuple(point.completeness.value for point in curves),
            seconds=seconds,
        )


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
            raise InputError(f"nothing is planted in {name}; no ranking can find it")
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


def _shown(model: HookedModel, behaviour: Behaviour) -> tuple[tuple[bool, ...], float | None]:
    texts = generate(model, behaviour.evaluation.positive, max_new_tokens=MAX_NEW_TOKENS)
    qualities = [value for value in map(ngram_quality, texts) if value is not None]
    return tuple(map(behaviour.shown, texts)), fmean(qualities) if qualities else None


def _log_odds(model: HookedModel, behaviour: Behaviour) -> float:
    asked = behaviour.evaluation.positive
    return fmean(refusal_log_odds(model, asked, openings=behaviour.openings))


def _at_last_prompt(
    model: HookedModel, behaviour: Behaviour, circuit: Circuit, means: ActivationStats
) -> float:
    with steer(model, circuit, values=means, positions="last_prompt"):
        return _log_odds(model, behaviour)


def _curves(
    model: HookedModel, behaviour: Behaviour, scores: NeuronScores, means: ActivationStats
) -> Sequence[Ablations]:
    def metric(model: HookedModel, prompts: Sequence[Any]) -> list[float]:
        return refusal_log_odds(model, prompts, openings=behaviour.openings)

    n = scores.layout.n_neurons
    # A ranking such as the probe scores only some neurons: where there are no more, all are taken.
    scored = n if scores.eligible is None else int(scores.eligible.sum())
    sizes = [min(scored, max(1, round(share * n))) for share in FRACTIONS]
    points = necessity(
        model,
        behaviour.evaluation.positive[:N_CURVE_PROMPTS],
        {scores.method: scores},
        metric,
        means,
        sizes=sorted(set(sizes)),
        positions="all",
        n_resamples=50,
        progress=False,
    ).points
    by_size = {point.k: point for point in points}
    return [by_size[size] for size in sizes]


def _area(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Area over the logarithm of the share of neurons, per unit of it."""
    places: NDArray[np.float64] = np.log(fractions)
    return float(np.trapezoid(values, places) / (places[-1] - places[0]))


def _row(scored: Scored) -> dict[str, str | float]:
    return {"model": scored.model, "ranking": scored.ranking, **_figures(scored)}


def _figures(scored: Scored) -> dict[str, float]:
    return dict(_named(scored))


def _named(scored: Scored) -> Iterator[tuple[str, float]]:
    found = scored.recovery
    yield "auroc", found.overall.auroc
    yield "auroc_within_layers", found.within_layers.auroc
    yield "average_precision", found.overall.average_precision
    yield "precision", found.overall.precision
    yield "share_of_oracle", scored.share_of_oracle
    yield "kl", scored.chosen.kl
    yield "oracle_kl", scored.oracle.kl
    yield "quality", math.nan if scored.chosen.quality is None else scored.chosen.quality
    lost = scored.before.log_odds - scored.oracle_at_last_prompt
    by_chosen = scored.before.log_odds - scored.at_last_prompt
    yield "share_at_last_prompt", by_chosen / lost if lost >= LEAST_NATS else math.nan
    for name, shown in (("unplanted", scored.unplanted), ("random", scored.random)):
        yield f"lost_by_{name}", math.nan if shown is None else scored.before.rate - fmean(shown)
    yield "cpr", scored.cpr
    yield "cmd", scored.cmd
    yield "seconds", scored.seconds
