"""One planted model: what rankings read of it, and what ablating neurons does to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any, Final, cast

from cna_lens.discovery.activations.per_prompt import KeptActivations
from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.activations.sets import EncodedSets, encode_sets, read_both
from cna_lens.discovery.rankings.protocol import Collected, Ranking
from cna_lens.evidence.faithfulness import Ablations, Ends, ends_of, necessity
from cna_lens.evidence.known_truth import Recovery, recovery
from cna_lens.evidence.league import Effect, OtherAblations, Scored
from cna_lens.evidence.passes import Cost, counted
from cna_lens.metrics.behaviours import BEHAVIOURS, Behaviour
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, refusal_log_odds
from cna_lens.metrics.likelihood import mean_kl
from cna_lens.metrics.quality import ngram_quality
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.loading.load import load_model
from cna_lens.models.loading.planted import planted_truth, planting
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.models.running.generation import generate
from cna_lens.models.running.predictions import (
    LogProbs,
    Text,
    answers_after_prompts,
    predictions,
)
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import AnyNeuron
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

Steering = Callable[[], AbstractContextManager[Any]]


def has_metric(ranking: Ranking) -> bool:
    """Whether a ranking asks for a first-token metric."""
    return isinstance(getattr(ranking, "metric", None), FirstTokenMetric)


@dataclass(frozen=True)
class PlantedModel:
    """A planted model with what all rankings share.

    Attributes:
        name: its name.
        model: the model.
        behaviour: what was planted.
        truth: where.
        collected: what rankings read of the discovery prompts.
        reading: the cost of that.
        texts: negative prompts with the model's answers.
        unsteered: its predictions along these answers.
    """

    name: str
    model: HookedModel
    behaviour: Behaviour
    truth: Circuit
    collected: Collected
    reading: Cost
    texts: Sequence[Text]
    unsteered: Sequence[LogProbs]

    @classmethod
    def load(cls, name: str, device: str | None) -> PlantedModel:
        """Load the model, and read the discovery prompts."""
        behaviour = BEHAVIOURS[cast("str", planting(name).behaviour)]
        model, sets = load_model(name, device=device), behaviour.discovery
        encoded = encode_sets(model, sets.positive, sets.negative, "auto")
        reader = Reader(model)
        with counted(model, _n_tokens(encoded)) as reading:
            kept = [each.kept() for each in read_both(reader, encoded, KeptActivations)]
        asked = behaviour.evaluation.negative[:N_KL_PROMPTS]
        answers = generate(model, asked, max_new_tokens=MAX_NEW_TOKENS)
        texts = answers_after_prompts(model, asked, answers)
        return cls(
            name,
            model,
            behaviour,
            planted_truth(name),
            Collected(kept[0].stats(), kept[1].stats(), (kept[0], kept[1]), reader, *encoded),
            reading(),
            texts,
            [row for _, row in sorted(predictions(model, texts), key=lambda found: found[0])],
        )

    @cached_property
    def before(self) -> Effect:
        """The behaviour with no neuron ablated."""
        return self._effect(nullcontext)

    @cached_property
    def oracle(self) -> Effect:
        """The effect of ablating the planted neurons."""
        return self.effect(self.truth)

    @cached_property
    def oracle_otherwise(self) -> OtherAblations:
        """The effect of ablating them in other ways."""
        return self._otherwise(self.truth)

    def scores(self, ranking: Ranking, collected: Collected | None = None) -> NeuronScores:
        """Score every neuron; where the ranking asks for log-odds, by the behaviour's openings.

        Args:
            ranking: the ranking.
            collected: what it is given, by default all discovery prompts.
        """
        collected = collected or self.collected
        if has_metric(ranking):
            ranking = replace(cast("Any", ranking), metric=LogOdds(self.behaviour.openings))
        counts = [side.source.prompts.count for side in cast("Any", collected.activations)]
        ranking.check(self.model, *counts)
        # A ranking must not see more here than `score_neurons` gives it.
        if ranking.needs != "activations":
            collected = replace(collected, activations=None)
        return ranking.score(collected)

    def first(self, scores: NeuronScores) -> Circuit:
        """As many of a ranking's first neurons as were planted, or all that it scores."""
        return scores.top(k=min(len(self.truth), _n_scored(scores)))

    def half_samples(self, ranking: Ranking, halves: Sequence[Sequence[int]]) -> list[Recovery]:
        """Rank by parts of the discovery prompts, each given by places, and compare with the truth.

        What was read of a prompt is not read again.
        """
        found: list[Recovery] = []
        for places in halves:
            collected = self.collected.part(self._encoded(places), places, places)
            found.append(recovery(self.scores(ranking, collected), self.truth))
        return found

    def score(self, ranking: Ranking, label: str) -> Scored:
        """Rank, compare with the truth, and ablate."""
        _, positive = self.collected.model_and_prompts()
        sets = EncodedSets(positive, self.collected.negative_prompts())
        with counted(self.model, _n_tokens(sets)) as scoring:
            scores = self.scores(ranking)
        truth = self.truth
        chosen = self.first(scores)
        others = [neuron for neuron in chosen if neuron not in set(truth)]
        alone = Circuit(tuple(others), (1.0,) * len(others), truth.layout, truth.provenance)
        decoy = planting(self.name).decoy
        curves = self.curves(scores)
        return Scored(
            model=self.name,
            ranking=label,
            recovery=recovery(scores, truth),
            half_samples=(),
            in_decoy=None if decoy is None else len({*chosen} & {*decoy.neurons}) / len(chosen),
            before=self.before,
            oracle=self.oracle,
            chosen=self.effect(chosen),
            oracle_otherwise=self.oracle_otherwise,
            chosen_otherwise=self._otherwise(chosen),
            unplanted=self._shown_without(alone),
            random=self._shown_without(control(alone, truth)) if others else None,
            fractions=FRACTIONS,
            faithfulness=tuple(point.faithfulness.value for point in curves),
            without=tuple(point.completeness.value for point in curves),
            cost=self.reading + scoring(),
        )

    def curves(self, scores: NeuronScores) -> Sequence[Ablations]:
        """What the first neurons of a ranking keep and carry, at each share of all neurons."""
        n, scored = scores.layout.n_neurons, _n_scored(scores)
        # Where a ranking has no more neurons, all of them are taken.
        sizes = [min(scored, max(1, round(share * n))) for share in FRACTIONS]
        points = necessity(
            self.model,
            self._curve_prompts,
            {scores.method: scores},
            self._odds_of_each,
            self.collected.negative,
            sizes=sorted(set(sizes)),
            ends=self._curve_ends,
            n_resamples=50,
            progress=False,
        ).points
        by_size = {point.k: point for point in points}
        return [by_size[size] for size in sizes]

    @cached_property
    def _curve_ends(self) -> Ends:
        means = self.collected.negative
        return ends_of(self.model, self._curve_prompts, self._odds_of_each, means)

    @property
    def _curve_prompts(self) -> Sequence[str]:
        return self.behaviour.evaluation.positive[:N_CURVE_PROMPTS]

    def _odds_of_each(self, model: HookedModel, prompts: Sequence[Prompt]) -> list[float]:
        return refusal_log_odds(model, prompts, openings=self.behaviour.openings)

    def _encoded(self, places: Sequence[int]) -> EncodedSets:
        sets = self.behaviour.discovery
        positive, negative = (
            [side[place] for place in places] for side in (sets.positive, sets.negative)
        )
        return encode_sets(self.model, positive, negative, "auto")

    def effect(self, circuit: Circuit) -> Effect:
        """The effect of setting neurons to 0 at all positions."""
        return self._effect(lambda: steer(self.model, circuit, 0.0))

    def _effect(self, steering: Steering) -> Effect:
        with steering():
            shown, quality = self._shown()
            odds = self._log_odds()
            steered = dict(predictions(self.model, self.texts))
        divergences = [
            value
            for place, before in enumerate(self.unsteered)
            if (value := mean_kl(before, steered[place])) is not None
        ]
        return Effect(shown, odds, fmean(divergences), quality)

    def _shown(self, n: int | None = None) -> tuple[tuple[bool, ...], float | None]:
        asked = self.behaviour.evaluation.positive[:n]
        texts = generate(self.model, asked, max_new_tokens=MAX_NEW_TOKENS)
        qualities = [value for value in map(ngram_quality, texts) if value is not None]
        return tuple(map(self.behaviour.shown, texts)), fmean(qualities) if qualities else None

    def _shown_without(self, circuit: Circuit) -> tuple[bool, ...] | None:
        if not len(circuit):
            return None
        with steer(self.model, circuit, 0.0):
            return self._shown(N_HALF)[0]

    def _log_odds(self) -> float:
        asked = self.behaviour.evaluation.positive[:N_HALF]
        return fmean(self._odds_of_each(self.model, asked))

    def _otherwise(self, circuit: Circuit) -> OtherAblations:
        means = self.collected.negative

        def log_odds(*multiplier: float, **how: Any) -> float:
            with steer(self.model, circuit, *multiplier, **how):
                return self._log_odds()

        return OtherAblations(
            mean=log_odds(values=means),
            last_prompt_zero=log_odds(0.0, positions="last_prompt"),
            last_prompt_mean=log_odds(values=means, positions="last_prompt"),
        )


def control(chosen: Circuit, truth: Circuit) -> Circuit:
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


def _n_scored(scores: NeuronScores) -> int:
    """The number of neurons that may be chosen; a ranking such as the probe scores only some."""
    return scores.layout.n_neurons if scores.eligible is None else int(scores.eligible.sum())


def _n_tokens(sets: EncodedSets) -> int:
    return sum(len(ids) for each in sets for ids in each.ids)
