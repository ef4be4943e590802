"""Neurons: each is one entry of the input to the down projection of one MLP."""

from __future__ import annotations

from operator import index as integer
from typing import Literal, NamedTuple, SupportsIndex, TypeGuard, cast

Sign = Literal["abs", "positive", "negative"]
"""Which scores make a neuron strong: large absolute values, or large values of one sign."""


class MLP(NamedTuple):
    """One MLP with its own down projection: that of a layer, or one of its routed experts.

    `expert` is None for the MLP that every token of the layer passes: the only MLP of a dense
    layer, or the shared experts of a sparse one.

    >>> MLP(layer=3), MLP(layer=3, expert=5)
    (MLP(layer=3, expert=None), MLP(layer=3, expert=5))
    """

    layer: int
    expert: int | None = None

    def neuron(self, index: int) -> AnyNeuron:
        """The neuron at an index of this MLP."""
        return (
            Neuron(self.layer, index)
            if self.expert is None
            else ExpertNeuron(self.layer, self.expert, index)
        )

    def __str__(self) -> str:
        """The name in error messages."""
        return f"layer {self.layer}" + ("" if self.expert is None else f", expert {self.expert}")


class Neuron(NamedTuple):
    """A neuron that every token passes: entry `index` of the down projection's input in `layer`.

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
        """A short name, such as L29/1203."""
        return f"L{self.layer}/{self.index}"


class ExpertNeuron(NamedTuple):
    """A neuron of a routed expert: entry `index` of the input to the expert's down projection.

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
        """A short name, such as L3/E5/7."""
        return f"L{self.layer}/E{self.expert}/{self.index}"


AnyNeuron = Neuron | ExpertNeuron
NeuronLike = AnyNeuron | tuple[int, int] | tuple[int, int, int]


def as_neuron(given: NeuronLike) -> AnyNeuron:
    """Make a neuron from (layer, index) or (layer, expert, index); convert NumPy integers.

    >>> as_neuron((1, 3)), as_neuron((1, 0, 3))
    (Neuron(layer=1, index=3), ExpertNeuron(layer=1, expert=0, index=3))

    Raises:
        TypeError: an entry is not a whole number.
        ValueError: there are fewer than two or more than three entries.
    """
    if isinstance(given, Neuron | ExpertNeuron) and {*map(type, given)} == {int}:
        return given
    layer, *between, place = map(integer, given)
    if len(between) > 1:
        raise ValueError(f"{given!r} has {len(given)} entries, a neuron has 2 or 3")
    return ExpertNeuron(layer, between[0], place) if between else Neuron(layer, place)


def is_neuron(given: object) -> TypeGuard[NeuronLike]:
    """Whether something is one neuron, and not several.

    >>> is_neuron((29, 5)), is_neuron([(29, 5)])
    (True, False)
    """
    return (
        isinstance(given, tuple)
        and len(cast("tuple[object, ...]", given)) > 0
        and all(isinstance(entry, SupportsIndex) for entry in cast("tuple[object, ...]", given))
    )


class Experts(NamedTuple):
    """The number of routed experts in a layer, and the number of neurons in each of them."""

    count: int  # pyright: ignore[reportIncompatibleMethodOverride] (nobody counts in it)
    width: int
