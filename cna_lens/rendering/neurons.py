"""Neurons in a summary: a table of the scored ones, and how many each layer has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cna_lens.rendering.summary import Cell, Table
from cna_lens.types import Layout, Neuron


def neuron_table(
    caption: str, neurons: Sequence[Neuron], columns: Mapping[str, Sequence[Cell]]
) -> Table:
    """A row for each neuron: its rank, layer and index, and what else is known of it."""
    return Table(
        caption,
        ("rank", "layer", "index", *columns),
        tuple(
            (Cell.of(place + 1), Cell.of(neuron.layer), Cell.of(neuron.index), *known)
            for place, (neuron, *known) in enumerate(zip(neurons, *columns.values(), strict=True))
        ),
    )


def per_layer(neurons: Iterable[Neuron], layout: Layout) -> tuple[int, ...]:
    """How many of the neurons each layer has.

    >>> per_layer([Neuron(0, 3), Neuron(2, 1), Neuron(2, 0)], Layout((4, 4, 4)))
    (1, 0, 2)
    """
    counts = [0] * layout.n_layers
    for neuron in neurons:
        counts[neuron.layer] += 1
    return tuple(counts)
