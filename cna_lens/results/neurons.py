"""What a neuron is: an entry of the down projection's input of one MLP."""

from __future__ import annotations

from operator import index as integer
from typing import Literal, NamedTuple

Sign = Literal["abs", "positive", "negative"]
"""Which scores make a neuron strong: large absolute values, or large values of one sign."""


class MLP(NamedTuple):
    """One MLP, with a down projection of its own: a layer's, or one of its experts.

    What every token of a layer passes has expert None: its only MLP, or the shared experts beside
    the routed ones.

    >>> MLP(layer=3), MLP(layer=3, expert=5)
    (MLP(layer=3, expert=None), MLP(layer=3, expert=5))
    """

    layer: int
    expert: int | None = None

    def neuron(self, index: int) -> AnyNeuron:
        """One of its neurons."""
        return (
            Neuron(self.layer, index)
            if self.expert is None
            else ExpertNeuron(self.layer, self.expert, index)
        )

    def __str__(self) -> str:
        """As an error names it."""
        return f"layer {self.layer}" + ("" if self.expert is None else f", expert {self.expert}")


class Neuron(NamedTuple):
    """One MLP neuron: entry `index` of the down projection's input in block `layer`.

    >>> Neuron(layer=29, index=1203)
    Neuron(layer=29, index=1203)
    """

    layer: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (nobody searches a neuron)

    @property
    def mlp(self) -> MLP:
        """The MLP it belongs to."""
        return MLP(self.layer)

    @property
    def label(self) -> str:
        """As L29/1203."""
        return f"L{self.layer}/{self.index}"


class ExpertNeuron(NamedTuple):
    """One neuron of one expert: entry `index` of the expert's down projection's input.

    >>> ExpertNeuron(layer=3, expert=5, index=7).mlp
    MLP(layer=3, expert=5)
    """

    layer: int
    expert: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride] (nobody searches a neuron)

    @property
    def mlp(self) -> MLP:
        """The MLP it belongs to."""
        return MLP(self.layer, self.expert)

    @property
    def label(self) -> str:
        """As L3/E5/7."""
        return f"L{self.layer}/E{self.expert}/{self.index}"


AnyNeuron = Neuron | ExpertNeuron
NeuronLike = AnyNeuron | tuple[int, int] | tuple[int, int, int]


def as_neuron(given: NeuronLike) -> AnyNeuron:
    """A neuron from (layer, index) or (layer, expert, index); numpy's integers become Python's.

    >>> as_neuron((1, 3)), as_neuron((1, 0, 3))
    (Neuron(layer=1, index=3), ExpertNeuron(layer=1, expert=0, index=3))

    Raises:
        TypeError: an entry is no whole number.
        ValueError: there are not two or three entries.
    """
    layer, *between, place = map(integer, given)
    if len(between) > 1:
        raise ValueError(f"{given!r} has {len(given)} entries, a neuron has 2 or 3")
    return ExpertNeuron(layer, between[0], place) if between else Neuron(layer, place)


class Experts(NamedTuple):
    """How many routed experts a layer has, and how many neurons each of them."""

    count: int  # pyright: ignore[reportIncompatibleMethodOverride] (nobody counts in it)
    width: int
