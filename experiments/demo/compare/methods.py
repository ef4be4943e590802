"""The steering methods that are compared, each with its own circuit or vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cna_lens
from cna_lens import (
    ActivationStats,
    Circuit,
    NeuronScaling,
    NeuronScores,
    Selection,
    SteeringMethod,
    UniversalNeurons,
)
from cna_lens.metrics import kl_per_token, refusal_log_odds
from cna_lens.models import HookedModel
from cna_lens.steering import Prefer, caa_candidates, choose, directional_ablation_candidates
from experiments.shared.rankings import scored

Direction = Literal["remove", "add"]

RANKINGS: Mapping[str, Selection] = {
    "contrast": Selection(),
    "attribution_patching": Selection(sign="positive"),
    "relp": Selection(sign="positive"),
}
FRACTIONS = (0.003, 0.01)
MULTIPLIERS = {"remove": (0.0, -1.0, -2.0), "add": (2.0, 3.0, 5.0)}
"""Multipliers of the distance from the benign mean."""

VALIDATION_EVERY = 5
"""Every fifth pair of the discovery set is held back, to choose layers on."""

MAX_KL = 0.05
"""Nats per token on benign prompts; a method that moves them more is not chosen."""

READ_AT = (-1, -2, -4)
"""Positions after the request at which a direction is looked for."""


@dataclass(frozen=True)
class Discovery:
    """Scores and activations of a model on the packaged discovery set.

    Attributes:
        scores: of each ranking's neurons.
        benign: activations on the benign prompts.
        universal: neurons that are left out of every circuit.
    """

    scores: dict[str, NeuronScores]
    benign: ActivationStats
    universal: UniversalNeurons

    @classmethod
    def on(cls, model: HookedModel) -> Discovery:
        """Run the model on the discovery set, for every ranking."""
        prompts = cna_lens.prompt_set("refusal")
        return cls(
            scored(model, prompts.positive, prompts.negative, RANKINGS),
            cna_lens.collect(model, prompts.negative, progress=True),
            cna_lens.universal_neurons(model, progress=True),
        )

    def circuit(self, ranking: str, fraction: float) -> Circuit:
        """The top of a ranking, by the sign that belongs to it."""
        chosen = replace(RANKINGS[ranking], fraction=fraction, universal=self.universal)
        return chosen.circuit(self.scores[ranking])

    def scaled(self, circuit: Circuit, multiplier: float, name: str) -> SteeringMethod:
        """Multiply the distance from the benign mean at the token where the answer begins."""
        method = cna_lens.deviation_scaling(
            circuit, self.benign, multiplier, positions="last_prompt"
        )
        return replace(method, name=name)


def candidates(found: Discovery, direction: Direction) -> dict[str, tuple[float, SteeringMethod]]:
    """Every ranking, size and multiplier, by name, with its share of the neurons."""
    tried: dict[str, tuple[float, SteeringMethod]] = {}
    for ranking in RANKINGS:
        for fraction in FRACTIONS:
            circuit = found.circuit(ranking, fraction)
            for multiplier in MULTIPLIERS[direction]:
                name = f"{ranking} {fraction:.1%}, {multiplier:g}"
                tried[name] = fraction, found.scaled(circuit, multiplier, name)
    return tried


def baselines(
    model: HookedModel, found: Discovery, direction: Direction, control: SteeringMethod | None
) -> list[SteeringMethod]:
    """The paper's methods, directional ablation, and a control for the method that was chosen."""
    paper = found.circuit("contrast", 0.001)
    scaled = (0.0, "zero") if direction == "remove" else (2.0, "doubled")
    methods: list[SteeringMethod] = [
        NeuronScaling(paper, scaled[0], name=f"contrast 0.1%, {scaled[1]} everywhere")
    ]
    if isinstance(control, cna_lens.NeuronPull):
        random = cna_lens.matched_random(control.circuit)
        methods.append(found.scaled(random, control.multiplier, "random in its place"))
    return [*methods, *_vectors(model, direction)]


def _vectors(model: HookedModel, direction: Direction) -> list[SteeringMethod]:
    """CAA as in the paper and as in its source, and directional ablation."""
    discovery = cna_lens.prompt_set("refusal")
    pairs = list(zip(discovery.positive, discovery.negative, strict=True))
    held_back = pairs[::VALIDATION_EVERY]
    positive, negative = zip(*(pair for pair in pairs if pair not in held_back), strict=True)
    harmful, benign = zip(*held_back, strict=True)
    sign = "subtract" if direction == "remove" else "add"
    prefer: Prefer = "lowest" if direction == "remove" else "highest"

    def chosen(among: Sequence[SteeringMethod]) -> list[SteeringMethod]:
        sparing = [method for method in among if _mean_kl(model, method, benign) <= MAX_KL]
        if not sparing:
            return []
        best = choose(
            model,
            sparing,
            refusal_log_odds,
            harmful,
            benign,
            max_kl=MAX_KL,
            answer_tokens=0,
            prefer=prefer,
            progress=True,
        )
        return [best.best]

    whole = cna_lens.caa(model, positive, negative, sign=sign)
    methods: list[SteeringMethod] = [replace(whole, name="CAA, MLP outputs of all layers")]
    methods += chosen(caa_candidates(model, positive, negative, sign=sign))
    if direction == "remove":
        early = range(1, math.floor(0.8 * model.cfg.n_layers))
        methods += chosen(
            directional_ablation_candidates(
                model, positive, negative, layers=early, read_at=READ_AT
            )
        )
    return methods


def _mean_kl(model: HookedModel, method: SteeringMethod, prompts: Sequence[str]) -> float:
    divergences = kl_per_token(model, lambda: method.at(model), prompts)
    return math.fsum(each for each in divergences if each is not None) / len(prompts)
