"""The rule that chooses a circuit, to be repeated on every resample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from cna_lens.discovery.universal import (
    UniversalNeurons,
    as_neurons,
    checked_neurons,
    filter_universal,
)
from cna_lens.errors import InputError
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import AnyNeuron, NeuronLike, Sign
from cna_lens.results.scores import NeuronScores, check_layers, check_selection, circuit_size


@dataclass(frozen=True)
class Selection:
    """How a circuit is chosen from scores: the arguments of `find_circuit`, for many resamples.

    >>> scores = NeuronScores(
    ...     torch.tensor([9.0, 3.0, -4.0], dtype=torch.float64), Layout((3,)), "contrast"
    ... )
    >>> Selection(k=1, universal=[(0, 0)]).circuit(scores).neurons
    (Neuron(layer=0, index=2),)

    Attributes:
        fraction: the circuit's share of all neurons, 0.001 unless k is given.
        k: the circuit's number of neurons, instead of a fraction.
        sign: "abs", or "positive" or "negative" scores only.
        layers: choose from these layers only; None for all.
        universal: neurons that are never chosen.
    """

    fraction: float | None = None
    k: int | None = None
    sign: Sign = "abs"
    layers: Iterable[int] | None = None
    universal: UniversalNeurons | Iterable[NeuronLike] | None = None

    def __post_init__(self) -> None:
        """Reject invalid settings; make tuples of iterables, which are read more than once."""
        check_selection(self.fraction, self.k, self.sign)
        if self.fraction is None and self.k is None:
            object.__setattr__(self, "fraction", 0.001)
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.universal is not None and not isinstance(self.universal, UniversalNeurons):
            object.__setattr__(self, "universal", as_neurons(self.universal))

    def size(self, layout: Layout) -> int:
        """The circuit's number of neurons on a model of this shape."""
        return circuit_size(layout.n_neurons, self.fraction, self.k)

    def candidates(self, layout: Layout) -> Bool[Tensor, " neuron"]:
        """The neurons that may be chosen, for any sign of their scores.

        Raises:
            InputError: a layer or a universal neuron that the model does not have.
        """
        allowed = torch.ones(layout.n_neurons, dtype=torch.bool)
        if self.layers is not None:
            chosen = torch.tensor(check_layers(self.layers, layout))
            allowed &= torch.isin(layout.layer_of, chosen)
        if self.universal is not None:
            allowed[layout.flat_all(checked_neurons(self.universal, layout))] = False
        return allowed

    def circuit(self, scores: NeuronScores) -> Circuit:
        """The circuit that `NeuronScores.top` gives."""
        if self.universal is not None:
            scores = filter_universal(scores, self.universal)
        return scores.top(self.fraction, self.k, sign=self.sign, layers=self.layers)

    def strength(self, scores: Float64[Tensor, "... neuron"]) -> Float64[Tensor, "... neuron"]:
        """The quantity by which neurons are chosen, largest first."""
        return {"abs": scores.abs(), "positive": scores, "negative": -scores}[self.sign]

    def strongest(
        self, scores: Float64[Tensor, "resample neuron"], layout: Layout
    ) -> Int64[Tensor, "resample k"]:
        """The circuit of each resample, as numbers of neurons in the model's order.

        They are the neurons that `circuit` takes from each row, ties included.

        Raises:
            InputError: a resample has fewer neurons to choose from than asked for.
        """
        size = self.size(layout)
        allowed = self.candidates(layout)
        strength = self.strength(scores)
        if self.sign != "abs":
            allowed = allowed & (strength > 0)
        strength = strength.where(allowed, -torch.inf)
        values, places = strength.topk(size)
        weakest = values[:, -1:]
        if bool(torch.isneginf(weakest).any()):
            raise InputError(
                f"k = {size} neurons were asked for, and a resample has fewer to choose from "
                f"(sign={self.sign!r}, after exclusions); take fewer"
            )
        # The order of equal strengths matters only where some of them are left out.
        tied = (strength >= weakest).sum(1) > size
        if bool(tied.any()):
            order = strength[tied].sort(dim=1, descending=True, stable=True).indices
            places[tied] = order[:, :size]
        return places.sort(dim=1).values

    def record(self) -> dict[str, object]:
        """The settings as plain data, with the number of universal neurons."""
        universal = self.universal
        if universal is not None and not isinstance(universal, UniversalNeurons):
            universal = cast("tuple[AnyNeuron, ...]", universal)
        return {
            "fraction": self.fraction,
            "k": self.k,
            "sign": self.sign,
            "layers": None if self.layers is None else list(self.layers),
            "n_universal": 0 if universal is None else len(universal),
        }
