"""Signed scores of all neurons, and the strongest neurons as a circuit."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from operator import index
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import Sign
from cna_lens.results.provenance import Provenance
from cna_lens.results.rendering import Cell, Summarized, Summary, Table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class NeuronScores(Summarized):
    """A signed score for each neuron, and which neurons a circuit may contain.

    >>> scores = NeuronScores(
    ...     torch.tensor([0.1, -3.0, 2.0], dtype=torch.float64), Layout((2, 1)), "contrast"
    ... )
    >>> scores.top(k=2).neurons
    (Neuron(layer=0, index=1), Neuron(layer=1, index=0))

    Attributes:
        values: the scores, all layers on one axis; `by_layer` cuts them into layers.
        layout: the place of each neuron on that axis.
        method: the name of the ranking.
        unit: the unit of the scores.
        eligible: False for a neuron that must not be chosen; None if all may be chosen.
        provenance: where the scores come from.
    """

    values: Float64[Tensor, " neuron"]
    layout: Layout
    method: str
    unit: str = "activation"
    eligible: Bool[Tensor, " neuron"] | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        """Require tensors that fit the layout."""
        for tensor in (self.values, self.eligible):
            if tensor is not None and tensor.shape != (self.layout.n_neurons,):
                raise InputError(
                    f"there are scores or exclusions for {len(tensor)} neurons, expected one for "
                    f"each of the layout's {self.layout.n_neurons} neurons"
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
        """Choose the k neurons with the strongest scores over all layers together.

        Args:
            fraction: the share of all the model's neurons; 0.001 if k is not given either.
                `circuit_size` says how it is rounded. Excluded neurons and layers still count, so
                that all circuits of one model have the same size.
            k: the number of neurons, instead of a fraction.
            sign: rank by magnitude ("abs"), or take only positive or only negative scores.
            layers: choose from these layers only.
            max_per_layer: take at most this many neurons from each layer, its strongest ones. With
                k = n_layers * max_per_layer, every layer gives exactly this many.

        Raises:
            InputError: fraction, k or max_per_layer is out of range, the sign or a layer is
                unknown, or fewer neurons can be chosen than were asked for.
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

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row for each neuron: layer, index, score, and if it may be chosen.

        For a model with experts it also has the column expert, with a missing value for neurons
        that belong to no routed expert.
        """
        import pandas as pd

        neurons = list(self.layout.neurons())
        frame = pd.DataFrame(
            {
                "layer": [n.layer for n in neurons],
                "index": [n.index for n in neurons],
                "score": self.values.numpy(),
                "eligible": True if self.eligible is None else self.eligible.numpy(),
            }
        )
        if self.layout.experts:
            frame.insert(1, "expert", pd.array([n.mlp.expert for n in neurons], dtype="Int64"))
        return frame

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
                        Cell.of(float(np.median(values.abs().numpy()))),
                        Cell.of(float(values.max()), "+.3g"),
                    )
                    for layer, values in enumerate(self.by_layer())
                    if len(values)
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
    """The number of neurons in a circuit: the nearest whole number (halves round up), at least 1.

    The paper's sizes (0.1 % of n_layers x d_mlp) for Llama-3.1-8B and Qwen2.5-1.5B:

    >>> circuit_size(32 * 14336, fraction=0.001), circuit_size(28 * 8960, fraction=0.001)
    (459, 251)

    Raises:
        InputError: both or neither of fraction and k are given, or one is out of range.
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
    """Raise InputError for invalid settings of a selection, before anything is computed."""
    if fraction is not None and k is not None:
        raise InputError(f"give either fraction or k, not both ({fraction} and {k})")
    if fraction is not None and (not isinstance(fraction, Real) or not 0 < fraction <= 1):
        raise InputError(
            f"fraction is {fraction!r}, expected a share of the neurons above 0 and up to 1 "
            "(0.001 for the paper's 0.1 %)"
        )
    if k is not None and (not isinstance(k, Integral) or k < 1):
        raise InputError(f"k is {k}, expected at least 1 neuron, and a whole number")
    if sign not in get_args(Sign):
        raise InputError(f"sign is {sign!r}, expected one of {', '.join(get_args(Sign))}")
    if max_per_layer is not None and (not isinstance(max_per_layer, Integral) or max_per_layer < 1):
        raise InputError(
            f"max_per_layer is {max_per_layer}, expected at least 1 neuron, and a whole number"
        )


def check_layers(layers: Iterable[int], layout: Layout) -> tuple[int, ...]:
    """The layers in order, each once; InputError where none exists or none has neurons."""
    try:
        chosen = tuple(sorted({index(layer) for layer in layers}))
    except TypeError as error:
        raise InputError(
            f"layers is {layers!r}, expected several whole numbers, such as [0, 1]"
        ) from error
    if not chosen:
        raise InputError("layers is empty; leave it out to choose from all layers")
    for layer in chosen:
        layout.check_layer(layer)
    if not any(layout.widths[layer] for layer in chosen):
        with_mlp = [layer for layer, width in enumerate(layout.widths) if width]
        raise InputError(
            f"layers is {list(chosen)}, but these layers have no MLP and thus no neurons; choose "
            f"from the layers with an MLP: {with_mlp}"
        )
    return chosen
