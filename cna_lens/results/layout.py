"""Layout: which neurons a model has, and where each stands on one axis."""

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
"""The hook point of each block whose tensor is read and scaled: the down projection's input."""


@dataclass(frozen=True)
class Layout:
    """How many neurons each layer has; layers may differ, and 0 stands for a layer without an MLP.

    All neurons of a model form one axis, layer after layer, so that "the top k over all layers"
    is one sort of one tensor. Within a layer the neurons that every token passes come first, those
    of a dense MLP or of shared experts, then expert after expert.

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
        widths: the number of neurons of each layer, those of all its experts among them.
        experts: each layer's routed experts; empty for a model that has none.
    """

    widths: tuple[int, ...]
    experts: tuple[Experts, ...] = ()

    def __post_init__(self) -> None:
        """Refuse experts that do not fit their layers."""
        experts = self.experts if any(each.count for each in self.experts) else ()
        object.__setattr__(self, "experts", experts)
        if not experts:
            return
        if len(experts) != len(self.widths):
            raise InputError(
                f"there are experts for {len(experts)} layers, the model has {len(self.widths)}"
            )
        for layer, (width, each) in enumerate(zip(self.widths, experts, strict=True)):
            if each.count * each.width > width:
                raise InputError(
                    f"layer {layer} has {width} neurons, fewer than its {each.count} experts of "
                    f"{each.width}"
                )

    def __repr__(self) -> str:
        """Experts are named where there are any."""
        experts = f", experts={self.experts}" if self.experts else ""
        return f"Layout(widths={self.widths}{experts})"

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.widths)

    @cached_property
    def mlps(self) -> tuple[MLP, ...]:
        """Every MLP that has neurons, in the order of the axis."""
        return tuple(
            mlp
            for layer in range(self.n_layers)
            for mlp in (MLP(layer), *(MLP(layer, e) for e in range(self._experts(layer).count)))
            if self.width(mlp)
        )

    @cached_property
    def mlp_of(self) -> Int[Tensor, " neuron"]:
        """The place in `mlps` of each neuron's MLP."""
        widths = torch.tensor([self.width(mlp) for mlp in self.mlps], dtype=torch.long)
        return torch.repeat_interleave(torch.arange(len(self.mlps)), widths)

    def _experts(self, layer: int) -> Experts:
        return self.experts[layer] if self.experts else Experts(0, 0)

    def has_experts(self, layer: int) -> bool:
        """Whether a layer routes its tokens to experts."""
        return self._experts(layer).count > 0

    def width(self, mlp: MLP) -> int:
        """The number of neurons of one MLP; 0 where the layer has none that all tokens pass.

        Raises:
            InputError: the model has no such layer or expert.
        """
        layer, expert = mlp
        if not 0 <= layer < self.n_layers:
            raise InputError(
                f"layer {layer} does not exist: the model has layers 0 to {self.n_layers - 1}"
            )
        count, width = self._experts(layer)
        if expert is None:
            return self.widths[layer] - count * width
        if not 0 <= expert < count:
            raise InputError(
                f"expert {expert} does not exist in layer {layer}, which has "
                + (f"experts 0 to {count - 1}" if count else "no experts")
            )
        return width

    def start(self, mlp: MLP) -> int:
        """Where the neurons of one MLP begin on the axis of all neurons."""
        before = (
            0 if mlp.expert is None else self.width(MLP(mlp.layer)) + mlp.expert * self.width(mlp)
        )
        return self.starts[mlp.layer] + before

    @property
    def n_neurons(self) -> int:
        """Number of neurons over all layers."""
        return sum(self.widths)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each layer begins on the axis of all neurons; the last entry is its length."""
        return (0, *accumulate(self.widths))

    @cached_property
    def layer_of(self) -> Int[Tensor, " neuron"]:
        """The layer of each neuron."""
        return torch.repeat_interleave(torch.arange(self.n_layers), torch.tensor(self.widths))

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
            InputError: the model has no such neuron.
        """
        neuron = as_neuron(neuron)
        width = self.width(neuron.mlp)
        if not 0 <= neuron.index < width:
            raise InputError(
                f"neuron {neuron.index} does not exist in {neuron.mlp}, "
                f"which has neurons 0 to {width - 1}"
            )
        return self.start(neuron.mlp) + neuron.index

    def flat_all(self, neurons: Iterable[NeuronLike]) -> Int[Tensor, " n"]:
        """The places of several neurons, in their order."""
        return torch.tensor([self.flat(neuron) for neuron in neurons], dtype=torch.long)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut a tensor whose last axis holds all neurons into one tensor for each layer."""
        return tuple(torch.split(values, list(self.widths), dim=-1))
