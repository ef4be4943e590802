"""Watched neurons: the top neurons of several rankings, and random neurons as a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from cna_lens.audit.measuring.measurement import Measurement
from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.discovery.rankings.scoring import as_ranking, rank, score_neurons
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.running.batching import BatchSize
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import Sign
from cna_lens.results.scores import NeuronScores
from cna_lens.steering.methods.controls import matched_random

RANKINGS: Final[Mapping[str, Sign]] = {
    "contrast": "abs",
    "standardized": "abs",
    "attribution_patching": "positive",
    "relp": "positive",
}
"""Rankings by which an adversary may pick neurons, each with the sign of the scores to pick."""

FRACTION = 0.003
"""The share of all neurons that is watched from each ranking."""

CIRCUIT = "circuit"


@dataclass(frozen=True, eq=False)
class Watched:
    """The watched neurons, by their places on the axis of all neurons.

    Attributes:
        layout: the layout of the model.
        sets: the strongest neurons of each ranking, strongest first, and those of the circuit.
        control: as many random neurons of the same layers, none of them in a set.
    """

    layout: Layout
    sets: Mapping[str, Int[Tensor, " n"]]
    control: Int[Tensor, " control"]

    @property
    def places(self) -> Int[Tensor, " watched"]:
        """The places of all watched neurons, in the order of the axis."""
        return torch.cat([*self.sets.values(), self.control]).unique()

    def among(self, chosen: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The indices in `places` of some watched neurons."""
        return torch.searchsorted(self.places, chosen)


def watch_list(
    model: HookedModel,
    measurement: Measurement,
    circuit: Circuit,
    *,
    rankings: Sequence[str] = tuple(RANKINGS),
    seed: int = 0,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Watched:
    """Rank the neurons on the canaries, and take the top of each ranking.

    Rankings that need only statistics take those of the measurement. Each other ranking costs one
    forward pass for each canary, and a ranking by gradients one backward pass too.
    """
    n_harmful = measurement.n_harmful
    harmful, benign = (
        ActivationStats.of(activations, measurement.layout)
        for activations in (measurement.neurons[:n_harmful], measurement.neurons[n_harmful:])
    )

    def scores(ranking: str) -> NeuronScores:
        if as_ranking(ranking).needs == "statistics":
            return rank(harmful, benign, ranking)
        return score_neurons(
            model,
            measurement.encoded.ids[:n_harmful],
            measurement.encoded.ids[n_harmful:],
            ranking,
            batch_size=batch_size,
            progress=progress,
        )

    sets = {CIRCUIT: circuit} | {
        name: scores(name).top(FRACTION, sign=RANKINGS.get(name, "abs")) for name in rankings
    }
    together = tuple({neuron: None for each in sets.values() for neuron in each})
    union = Circuit(together, (0.0,) * len(together), measurement.layout)
    layout = measurement.layout
    return Watched(
        layout,
        {name: layout.flat_all(each) for name, each in sets.items()},
        layout.flat_all(matched_random(union, seed)),
    )
