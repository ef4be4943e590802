"""Rank: give every neuron a signed score, then take the strongest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from cna_lens.circuit import Circuit, Provenance
from cna_lens.errors import InputError
from cna_lens.moments import ActivationStats
from cna_lens.types import Layout
from cna_lens.versions import library_versions

Sign = Literal["abs", "positive", "negative"]
Method = Callable[[ActivationStats, ActivationStats], Float64[Tensor, " neuron"]]


@dataclass(frozen=True)
class NeuronScores:
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
    ) -> Circuit:
        """The k neurons with the strongest scores over all layers together.

        Args:
            fraction: share of all the model's neurons, 0.001 if k is not given either; see
                `circuit_size` for the rounding. Excluded neurons and layers still count, so that
                circuits of one model are of one size.
            k: the number of neurons, instead of a fraction.
            sign: rank by magnitude ("abs"), or take only positive or only negative scores.
            layers: choose from these layers only.

        Raises:
            InputError: fraction or k out of range, an unknown sign or layer, or fewer neurons to
                choose from than asked for.
        """
        check_selection(fraction, k, sign)
        if fraction is None and k is None:
            fraction = 0.001
        size = circuit_size(self.layout.n_neurons, fraction, k)
        chosen_layers = None if layers is None else check_layers(layers, self.layout)
        candidates = self._candidates(sign, chosen_layers)
        if len(candidates) < size:
            raise InputError(
                f"k = {size} neurons were asked for, {len(candidates)} of "
                f"{self.layout.n_neurons} can be chosen (sign={sign!r}, after exclusions)"
            )
        strength = self.values[candidates].abs()
        order = torch.sort(strength, descending=True, stable=True).indices[:size]
        chosen: list[int] = candidates[order].tolist()
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


def check_selection(fraction: float | None, k: int | None, sign: str = "abs") -> None:
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


def contrast(positive: ActivationStats, negative: ActivationStats) -> Float64[Tensor, " neuron"]:
    r"""Difference of the mean activations at the chosen token.

    $$\delta_{l,j} = \frac{1}{|P|} \sum_{p \in P} a_{l,j}(p)
    - \frac{1}{|N|} \sum_{n \in N} a_{l,j}(n)$$

    Source: arXiv 2605.12290, method, step 3. Cost: one forward pass for each prompt.
    """
    return positive.mean - negative.mean


RANKINGS: Mapping[str, Method] = {"contrast": contrast}
"""The rankings that `rank` and `find_circuit` know, by name."""


def rank(
    positive: ActivationStats, negative: ActivationStats, method: str = "contrast"
) -> NeuronScores:
    """Score every neuron by how its activations differ between the two sets of prompts.

    >>> layout = Layout((2,))
    >>> positive = ActivationStats.of(torch.tensor([[1.0, 5.0]]), layout)
    >>> negative = ActivationStats.of(torch.tensor([[1.0, 2.0]]), layout)
    >>> rank(positive, negative).values.tolist()
    [0.0, 3.0]

    Raises:
        InputError: an unknown method, or sets from different models, positions or templates.
    """
    check_ranking(method)
    if positive.layout != negative.layout:
        raise InputError(
            f"the positive prompts ran on a model with {positive.layout.n_neurons} neurons in "
            f"{positive.layout.n_layers} layers, the negative ones on one with "
            f"{negative.layout.n_neurons} in {negative.layout.n_layers}; use one model"
        )
    return NeuronScores(
        values=RANKINGS[method](positive, negative),
        layout=positive.layout,
        method=method,
        provenance=_provenance(positive, negative, method),
    )


def check_ranking(method: str) -> None:
    """Raise InputError unless the ranking exists."""
    if method not in RANKINGS:
        raise InputError(f"rank is {method!r}, expected one of: {', '.join(sorted(RANKINGS))}")


def check_layers(layers: Iterable[int], layout: Layout) -> tuple[int, ...]:
    """The layers in order; InputError where there are none, or one does not exist."""
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
    return chosen


def _provenance(positive: ActivationStats, negative: ActivationStats, method: str) -> Provenance:
    known = Provenance(rank=method, unit="activation", versions=library_versions())
    if positive.source is None or negative.source is None:
        return known
    if replace(positive.source, prompts=negative.source.prompts) != negative.source:
        raise InputError(
            f"the two sets were collected differently: {positive.source} and {negative.source}; "
            "collect both from one model with the same position and chat setting"
        )
    return replace(
        known,
        model=positive.source.model,
        site=positive.source.site,
        position=positive.source.position,
        template_sha256=positive.source.template_sha256,
        positive=positive.source.prompts,
        negative=negative.source.prompts,
    )
