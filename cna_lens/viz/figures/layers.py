"""Circuits by depth: neurons per layer."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from cna_lens.errors import InputError
from cna_lens.evidence.curves import LayerCounts
from cna_lens.evidence.late_layers import Localization
from cna_lens.results.circuit import Circuit
from cna_lens.results.rendering import per_layer
from cna_lens.viz.figures.style import (
    COLOURS,
    ResultFigure,
    Style,
    drawn,
    legend_below,
    line_look,
    shown,
    whole_numbers,
)

Located = Circuit | Localization | LayerCounts
Counts = Mapping[str, tuple[int, ...]]


def layers(circuits: Located | Mapping[str, Located], *, style: Style = "screen") -> ResultFigure:
    """Draw how many neurons of a circuit each layer has; several circuits share a panel.

    A `Localization` gives two panels: its circuit from unscaled activations, and from activations
    in units of their layer's scale.

    >>> base = Circuit((Neuron(0, 1), Neuron(1, 2)), (2.0, 1.0), Layout((4, 4)))
    >>> instruct = Circuit((Neuron(1, 0), Neuron(1, 2)), (2.0, 1.0), Layout((4, 4)))
    >>> figure = layers({"base": base, "instruct": instruct})
    >>> figure.axes[0].get_xlabel()
    'layer'

    Args:
        circuits: one, or several by name, such as base and instruct; either circuits, or results
            of `localization` or their `curves`.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: no circuit, circuits and localizations together, or localizations of several
            scales.
    """
    named = circuits if isinstance(circuits, Mapping) else {"": circuits}
    if not named:
        raise InputError("there is no circuit to show; give at least one")
    panels = _panels(named)
    with drawn(style, len(panels)) as (figure, axes):
        for axis, (title, found) in zip(axes, panels.items(), strict=True):
            _draw(axis, found)
            axis.set_title(title)
        legend_below(figure, axes[0])
        counts = {
            f"{title} {name}".strip(): values
            for title, found in panels.items()
            for name, values in found.items()
        }
        figure.description = "Neurons per layer. " + "; ".join(
            f"{name or 'circuit'}: "
            + ", ".join(f"layer {layer} {count}" for layer, count in enumerate(values) if count)
            for name, values in counts.items()
        )
    return figure


def _panels(named: Mapping[str, Located]) -> dict[str, Counts]:
    plain = {
        name: per_layer(each, each.layout)
        for name, each in named.items()
        if isinstance(each, Circuit)
    }
    located = {
        name: each.curves() if isinstance(each, Localization) else each
        for name, each in named.items()
        if not isinstance(each, Circuit)
    }
    if plain and located:
        raise InputError("circuits and localizations cannot share a figure; give only one kind")
    if plain:
        return {"": plain}
    scales = {name: each.scale for name, each in located.items()}
    if len(set(scales.values())) > 1:
        said = ", ".join(f"{name!r} by {scale}" for name, scale in scales.items())
        raise InputError(
            f"the localizations divide by several scales ({said}), expected one for the panel; "
            "draw each scale by itself"
        )
    scale = next(iter(scales.values()))
    return {
        "activations as they are": {name: each.as_they_are for name, each in located.items()},
        f"divided by their layer's {scale}": {name: each.scaled for name, each in located.items()},
    }


def _draw(axis: Axes, circuits: Counts) -> None:
    for place, (name, counts) in enumerate(circuits.items()):
        size = f"k = {sum(counts)}"
        label = f"{shown(name)} ({size})" if name else size
        if len(circuits) == 1:
            axis.bar(range(len(counts)), counts, color=COLOURS[0], label=label)
        else:
            axis.plot(range(len(counts)), counts, label=label, **line_look(place))
    axis.set(xlabel="layer", ylabel="neurons")
    axis.set_ylim(bottom=0)
    whole_numbers(axis.xaxis, axis.yaxis)
