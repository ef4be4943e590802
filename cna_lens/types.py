"""The words of the domain: a neuron, where neurons live, where activations came from, a rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Final, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from cna_lens.errors import InputError

HOOK_SITE: Final = "mlp.hook_post"
"""The hook point of each block whose tensor is read and scaled: the down projection's input."""


class Neuron(NamedTuple):
    """One MLP neuron: entry `index` of the down projection's input in block `layer`.

    >>> Neuron(layer=29, index=1203)
    Neuron(layer=29, index=1203)
    """

    layer: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (nobody searches a neuron)


@dataclass(frozen=True)
class Layout:
    """How many neurons each layer has; layers may differ, and 0 stands for a layer without an MLP.

    All neurons of a model form one axis, layer after layer, so that "the top k over all layers"
    is one sort of one tensor.

    >>> layout = Layout((4, 4, 2))
    >>> layout.n_neurons
    10
    >>> layout.neuron(9)
    Neuron(layer=2, index=1)
    >>> layout.flat(Neuron(2, 1))
    9
    """

    widths: tuple[int, ...]

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
        """Where each layer begins on the axis of all neurons; the last entry is its length."""
        return (0, *accumulate(self.widths))

    @cached_property
    def layer_of(self) -> Int[Tensor, " neuron"]:
        """The layer of each neuron."""
        return torch.repeat_interleave(torch.arange(self.n_layers), torch.tensor(self.widths))

    def neuron(self, flat: int) -> Neuron:
        """The neuron at a place on the axis of all neurons."""
        layer = int(self.layer_of[flat])
        return Neuron(layer, flat - self.starts[layer])

    def flat(self, neuron: Neuron | tuple[int, int]) -> int:
        """The place of a neuron on the axis of all neurons.

        Raises:
            InputError: the model has no such neuron.
        """
        layer, index = neuron
        if not 0 <= layer < self.n_layers:
            raise InputError(
                f"layer {layer} does not exist: the model has layers 0 to {self.n_layers - 1}"
            )
        if not 0 <= index < self.widths[layer]:
            raise InputError(
                f"neuron {index} does not exist in layer {layer}, "
                f"which has neurons 0 to {self.widths[layer] - 1}"
            )
        return self.starts[layer] + index

    def flat_all(self, neurons: Iterable[Neuron | tuple[int, int]]) -> Int[Tensor, " n"]:
        """The places of several neurons, in their order."""
        return torch.tensor([self.flat(neuron) for neuron in neurons], dtype=torch.long)

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """Cut a tensor whose last axis holds all neurons into one tensor for each layer."""
        return tuple(torch.split(values, list(self.widths), dim=-1))


@dataclass(frozen=True)
class PromptRecord:
    """Which prompts were used, without their text: how many, and a hash of their token ids."""

    count: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where activations came from; two sets can be contrasted only where all but prompts agree."""

    model: str
    position: int
    prompts: PromptRecord
    template_sha256: str | None = None
    site: str = HOOK_SITE


@dataclass(frozen=True)
class Rate:
    """A share of successes in n trials with its confidence interval.

    >>> print(Rate(value=0.2, low=0.13, high=0.29, n=100))
    20.0 % [13.0, 29.0] n=100
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """The rate and its interval in per cent."""
        value, low, high = 100 * self.value, 100 * self.low, 100 * self.high
        return f"{value:.1f} % [{low:.1f}, {high:.1f}] n={self.n}"


@dataclass(frozen=True)
class Estimate:
    """A mean over examples with its confidence interval.

    >>> print(Estimate(value=0.91, low=0.88, high=0.94, n=58, missing=2))
    0.91 [0.88, 0.94] n=58, 2 missing

    Attributes:
        value: the mean of the examples that have a value.
        low: lower end of the interval, None for a single example.
        high: upper end of the interval, None for a single example.
        n: examples with a value.
        missing: examples without one; never counted as 0.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    missing: int = 0

    def __str__(self) -> str:
        """The mean and its interval."""
        unknown = self.low is None or self.high is None
        interval = "[?, ?]" if unknown else f"[{self.low:.3g}, {self.high:.3g}]"
        missing = f", {self.missing} missing" if self.missing else ""
        return f"{self.value:.3g} {interval} n={self.n}{missing}"
