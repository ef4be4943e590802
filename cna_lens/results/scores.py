"""Signed scores for all neurons, and the strongest of them as a circuit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import get_args

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import Sign
from cna_lens.results.provenance import Provenance
from cna_lens.results.rendering import (
    Cell,
    Summarized,
    Summary,
    Table,
)


@dataclass(frozen=True, repr=False)
class NeuronScores(Summarized):
    """A signed score for every neuron, and which neurons may be chosen.

    >>> scores = NeuronScores(
    ...     torch.tensor([0.1, -3.0, 2.0], dtype=torch.float64), Layout((2, 1)), "contrast"
    ... )
    >>> scores.top(k=2).neurons
    (Neuron(layer=0, index=1), Neuron(layer=1, index=0))

    Attributes:
        values: the scores, all layers on one axis; `by_layer` cuts them.
        layout: which neuron stands where.
        method: the ranking's name.
        unit: the unit of the scores.
        eligible: False where a neuron must not be chosen; None where all may.
        provenance: where the scores come from.
    """

    values: Float64[Tensor, " neuron"]
    layout: Layout
    method: str
    unit: str = "activation"
    eligible: Bool[Tensor, " neuron"] | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        """Refuse tensors that do not fit the layout."""
        for tensor in (self.values, self.eligible):
            if tensor is not None and tensor.shape != (self.layout.n_neurons,):
                raise InputError(
                    f"there are scores or exclusions for {len(tensor)} neurons, the layout has "
                    f"{self.layout.n_neurons}"
                )

    def by_layer(self) -> tuple[Float64[Tensor, " d_mlp"], ...]:
        """The scores of each layer."""
        return self.layout.split(self.values)

    def top(
        self,
        fraction: float | None = None,
        k: int | None = None,
        *,
        sign: Sign = "abs",
        layers: Iterable[int] | None = None,
        max_per_layer: int | None = None,
    ) -> Circuit:
        """The k neurons with the strongest scores over all layers together.

        Args:
            fraction: share of all the model's neurons, 0.001 if k is not given either; see
                `circuit_size` for the rounding. Excluded neurons and layers still count, so that
                circuits of one model are of one size.
            k: the number of neurons, instead of a fraction.
            sign: rank by magnitude ("abs"), or take only positive or only negative scores.
            layers: choose from these layers only.
            max_per_layer: at most this many from each layer, its strongest; k = n_layers times
                this takes exactly as many from each.

        Raises:
            InputError: fraction, k or max_per_layer out of range, an unknown sign or layer, or
                fewer neurons to choose from than asked for.
        """
        check_selection(fraction, k, sign, max_per_layer)
        if fraction is None and k is None:
            fraction = 0.001
        size = circuit_size(self.layout.n_neurons, fraction, k)
        chosen_layers = None if layers is None else check_layers(layers, self.layout)
        candidates = self._candidates(sign, chosen_layers)
        strength = self.values[candidates].abs()
        ordered = candidates[torch.sort(strength, descending=True, stable=True).indices]
        if max_per_layer is not None:
            ordered = self._first_of_each_layer(ordered, max_per_layer)
        if len(ordered) < size:
            quota = "" if max_per_layer is None else f"max_per_layer={max_per_layer}, "
            raise InputError(
                f"k = {size} neurons were asked for, {len(ordered)} of {self.layout.n_neurons} "
                f"can be chosen by {self.method} ({quota}sign={sign!r}, after exclusions)"
            )
        chosen: list[int] = ordered[:size].tolist()
        return Circuit(
            neurons=tuple(self.layout.neuron(flat) for flat in chosen),
            scores=tuple(float(self.values[flat]) for flat in chosen),
            layout=self.layout,
            provenance=replace(
                self.provenance,
                sign=sign,
                fraction=fraction,
                k=size,
                layers=chosen_layers,
                max_per_layer=max_per_layer,
            ),
        )

    def _candidates(self, sign: Sign, layers: tuple[int, ...] | None) -> Int[Tensor, " n"]:
        allowed = torch.ones_like(self.values, dtype=torch.bool)
        if self.eligible is not None:
            allowed &= self.eligible
        if sign == "positive":
            allowed &= self.values > 0
        elif sign == "negative":
            allowed &= self.values < 0
        if layers is not None:
            allowed &= torch.isin(self.layout.layer_of, torch.tensor(layers))
        return allowed.nonzero().squeeze(1)

    def _first_of_each_layer(self, ordered: Int[Tensor, " n"], quota: int) -> Int[Tensor, " m"]:
        layers = self.layout.layer_of[ordered]
        within = torch.zeros_like(ordered, dtype=torch.bool)
        for layer in layers.unique():
            within[(layers == layer).nonzero().squeeze(1)[:quota]] = True
        return ordered[within]

    def _summary(self) -> Summary:
        layers = enumerate(self.by_layer())
        rows = [(layer, values) for layer, values in layers if len(values)]
        return Summary(
            f"Scores of {self.layout.n_neurons} neurons",
            [("ranking", f"{self.method} ({self.unit})"), *self.provenance.facts()[:2]],
            Table(
                f"Scores of each layer ({self.unit})",
                ("layer", "neurons", "least", "median magnitude", "largest"),
                tuple(
                    (
                        Cell.of(layer),
                        Cell.of(len(values)),
                        Cell.of(float(values.min()), "+.3g"),
                        Cell.of(float(values.abs().median())),
                        Cell.of(float(values.max()), "+.3g"),
                    )
                    for layer, values in rows
                ),
            ),
        )

    def __repr__(self) -> str:
        """One useful line."""
        largest = float(self.values.abs().max()) if self.values.numel() else 0.0
        return (
            f"NeuronScores({self.method}, {self.layout.n_neurons} neurons, "
            f"largest magnitude {largest:.3g} {self.unit})"
        )


def circuit_size(n_neurons: int, fraction: float | None = None, k: int | None = None) -> int:
    """How many neurons a circuit has: the nearest whole number (halves up), at least 1.

    The sizes of the paper (0.1 % of n_layers x d_mlp), for Llama-3.1-8B and Qwen2.5-1.5B:

    >>> circuit_size(32 * 14336, fraction=0.001), circuit_size(28 * 8960, fraction=0.001)
    (459, 251)

    Raises:
        InputError: not exactly one of fraction and k, or one out of range.
    """
    if (fraction is None) == (k is None):
        raise InputError("give either fraction or k")
    check_selection(fraction, k)
    if fraction is not None:
        return max(1, math.floor(n_neurons * fraction + 0.5))
    if k is None or k > n_neurons:
        raise InputError(f"k is {k}, expected 1 to {n_neurons}, the number of neurons")
    return k


def check_selection(
    fraction: float | None, k: int | None, sign: str = "abs", max_per_layer: int | None = None
) -> None:
    """Raise InputError where a selection cannot be meant, before anything is computed."""
    if fraction is not None and k is not None:
        raise InputError(f"give either fraction or k, not both ({fraction} and {k})")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(
            f"fraction is {fraction}, expected a share of the neurons above 0 and up to 1 "
            "(0.001 for the paper's 0.1 %)"
        )
    if k is not None and (k < 1 or k % 1):
        raise InputError(f"k is {k}, expected at least 1 neuron, and a whole number")
    if sign not in get_args(Sign):
        raise InputError(f"sign is {sign!r}, expected one of {', '.join(get_args(Sign))}")
    if max_per_layer is not None and (max_per_layer < 1 or max_per_layer % 1):
        raise InputError(
            f"max_per_layer is {max_per_layer}, expected at least 1 neuron, and a whole number"
        )


def check_layers(layers: Iterable[int], layout: Layout) -> tuple[int, ...]:
    """The layers in order; InputError where there are none, or they have no neurons."""
    try:
        chosen = tuple(sorted(set(layers)))
    except TypeError as error:
        raise InputError(f"layers is {layers!r}, expected several: [{layers!r}]") from error
    if not chosen:
        raise InputError("layers is empty; leave it out to choose from all layers")
    for layer in chosen:
        if not 0 <= layer < layout.n_layers:
            raise InputError(
                f"layer {layer} does not exist: the model has layers 0 to {layout.n_layers - 1}"
            )
    if not any(layout.widths[layer] for layer in chosen):
        with_mlp = [layer for layer, width in enumerate(layout.widths) if width]
        raise InputError(
            f"layers is {list(chosen)}, where the model has no MLP, and so no neurons; the layers "
            f"that have one are {with_mlp}"
        )
    return chosen
