"""Layout: the neurons of a model, and the place of each on one axis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final

import torch
from jaxtyping import Int
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.results.neurons import (
    MLP,
    AnyNeuron,
    ExpertNeuron,
    Experts,
    Neuron,
    NeuronLike,
    as_neuron,
)

HOOK_SITE: Final = "mlp.hook_post"
"""The hook point in each block that is read and scaled: the input to the down projection."""


@dataclass(frozen=True)
class Layout:
    """The number of neurons in each layer; layers may differ, and a layer without an MLP has 0.

    All neurons of a model form one axis, layer after layer, so that "the top k over all layers"
    is one sort of one tensor. Within a layer, the neurons that every token passes come first (those
    of a dense MLP or of shared experts), then the neurons of one expert after another.

    >>> layout = Layout((4, 4, 2))
    >>> layout.n_neurons
    10
    >>> layout.neuron(9)
    Neuron(layer=2, index=1)
    >>> layout.flat(Neuron(2, 1))
    9

    A dense layer, and one of 4 shared neurons and 2 experts with 3 neurons each:

    >>> layout = Layout((6, 10), experts=(Experts(0, 0), Experts(2, 3)))
    >>> layout.neuron(9), layout.neuron(10)
    (Neuron(layer=1, index=3), ExpertNeuron(layer=1, expert=0, index=0))
    >>> layout.flat(ExpertNeuron(1, 1, 2))
    15

    Attributes:
        widths: the number of neurons in each layer, including those of all its experts.
        experts: the routed experts of each layer; empty for a model without experts.
    """

    widths: tuple[int, ...]
    experts: tuple[Experts, ...] = ()

    def __post_init__(self) -> None:
        """Require experts that fit their layers; drop experts that are empty in all layers."""
        experts = self.experts if any(each.count for each in self.experts) else ()
        object.__setattr__(self, "experts", experts)
        if not experts:
            return
        if len(experts) != len(self.widths):
            raise InputError(
                f"there are experts for {len(experts)} layers, the model has {len(self.widths)}; "
                "give one entry for each layer"
            )
        for layer, (width, each) in enumerate(zip(self.widths, experts, strict=True)):
            if each.count * each.width > width:
                raise InputError(
                    f"layer {layer} has {width} neurons, fewer than its {each.count} experts of "
                    f"{each.width}"
                )

    def __repr__(self) -> str:
        """The widths, and the experts of a model that has any."""
        experts = f", experts={self.experts}" if self.experts else ""
        return f"Layout(widths={self.widths}{experts})"

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.widths)

    @property
    def n_neurons(self) -> int:
        """Number of neurons over all layers."""
        return sum(self.widths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The place of each layer's first neuron; the last entry is the number of neurons."""
        return (0, *accumulate(self.widths))

    @cached_property
    def layer_of(self) -> Int[Tensor, " neuron"]:
        """The layer of each neuron."""
        return torch.repeat_interleave(torch.arange(self.n_layers), torch.tensor(self.widths))

    @cached_property
    def mlps(self) -> tuple[MLP, ...]:
        """Every MLP that has neurons, in the order of the axis."""
        return tuple(mlp for mlp, (_, width) in self._spans.items() if width)

    @cached_property
    def mlp_of(self) -> Int[Tensor, " neuron"]:
        """The index in `mlps` of each neuron's MLP."""
        widths = torch.tensor([self.width(mlp) for mlp in self.mlps], dtype=torch.long)
        return torch.repeat_interleave(torch.arange(len(self.mlps)), widths)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer routes its tokens to experts."""
        return self._experts(layer).count > 0

    def check_layer(self, layer: int) -> None:
        """Raise InputError unless the model has this layer."""
        if not 0 <= layer < self.n_layers:
            raise InputError(
                f"layer {layer} does not exist: the model has layers 0 to {self.n_layers - 1}"
            )

    def width(self, mlp: MLP) -> int:
        """The number of neurons of one MLP; 0 for a layer where all neurons belong to experts.

        Raises:
            InputError: the model does not have this layer or expert.
        """
        return self._span(mlp)[1]

    def start(self, mlp: MLP) -> int:
        """The place of an MLP's first neuron on the axis of all neurons."""
        return self._span(mlp)[0]

    def neuron(self, flat: int) -> AnyNeuron:
        """The neuron at a place on the axis of all neurons."""
        layer = int(self.layer_of[flat])
        place = flat - self.starts[layer]
        dense, (_, width) = self.width(MLP(layer)), self._experts(layer)
        if place < dense:
            return Neuron(layer, place)
        expert, index = divmod(place - dense, width)
        return ExpertNeuron(layer, expert, index)

    def neurons(self) -> Iterator[AnyNeuron]:
        """All neurons in the order of the axis."""
        for mlp in self.mlps:
            yield from map(mlp.neuron, range(self.width(mlp)))

    def flat(self, neuron: NeuronLike) -> int:
        """The place of a neuron on the axis of all neurons.

        Raises:
            InputError: the model does not have this neuron.
        """
        neuron = as_neuron(neuron)
        start, width = self._span(neuron.mlp)
        if not 0 <= neuron.index < width:
            raise InputError(
                f"neuron {neuron.index} does not exist in {neuron.mlp}, "
                f"which has neurons 0 to {width - 1}"
            )
        return start + neuron.index

    def flat_all(self, neurons: Iterable[NeuronLike]) -> Int[Tensor, " n"]:
        """The places of several neurons, in their order."""
        return torch.tensor([self.flat(neuron) for neuron in neurons], dtype=torch.long)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut a tensor whose last axis holds all neurons into one tensor for each layer."""
        return torch.split(values, list(self.widths), dim=-1)

    @cached_property
    def _spans(self) -> dict[MLP, tuple[int, int]]:
        """The place of each MLP's first neuron, and its number of neurons."""
        spans: dict[MLP, tuple[int, int]] = {}
        for layer, (start, width) in enumerate(zip(self.starts, self.widths, strict=False)):
            count, each = self._experts(layer)
            dense = width - count * each
            spans[MLP(layer)] = start, dense
            for expert in range(count):
                spans[MLP(layer, expert)] = start + dense + expert * each, each
        return spans

    def _span(self, mlp: MLP) -> tuple[int, int]:
        if (span := self._spans.get(mlp)) is not None:
            return span
        self.check_layer(mlp.layer)
        count = self._experts(mlp.layer).count
        raise InputError(
            f"expert {mlp.expert} does not exist in layer {mlp.layer}, which has "
            + (f"experts 0 to {count - 1}" if count else "no experts")
        )

    def _experts(self, layer: int) -> Experts:
        return self.experts[layer] if self.experts else Experts(0, 0)
