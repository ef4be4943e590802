"""Neurons in a summary: a table of neurons, and the number of neurons in each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cna_lens.results.layout import Layout
from cna_lens.results.neurons import AnyNeuron
from cna_lens.results.rendering.summary import Cell, Table


def neuron_table(
    caption: str, neurons: Sequence[AnyNeuron], columns: Mapping[str, Sequence[Cell]]
) -> Table:
    """A table with a row for each neuron: its rank, layer and index, and further columns.

    The table has a column for the expert if any neuron belongs to one.
    """
    have_experts = any(neuron.mlp.expert is not None for neuron in neurons)
    places = ("layer", "expert", "index") if have_experts else ("layer", "index")

    def row(place: int, neuron: AnyNeuron, known: Sequence[Cell]) -> tuple[Cell, ...]:
        where = {"layer": neuron.layer, "expert": neuron.mlp.expert, "index": neuron.index}
        return (Cell.of(place), *(Cell.of(where[name]) for name in places), *known)

    return Table(
        caption,
        ("rank", *places, *columns),
        tuple(
            row(place, neuron, known)
            for place, (neuron, *known) in enumerate(
                zip(neurons, *columns.values(), strict=True), start=1
            )
        ),
    )


def per_layer(neurons: Iterable[AnyNeuron], layout: Layout) -> tuple[int, ...]:
    """The number of the given neurons in each layer.

    >>> per_layer([Neuron(0, 3), Neuron(2, 1), Neuron(2, 0)], Layout((4, 4, 4)))
    (1, 0, 2)
    """
    counts = [0] * layout.n_layers
    for neuron in neurons:
        counts[neuron.layer] += 1
    return tuple(counts)
