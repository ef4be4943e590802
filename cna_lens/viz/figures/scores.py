"""A map of the scores of all neurons."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray

from cna_lens.errors import InputError
from cna_lens.results.circuit import Circuit
from cna_lens.results.scores import NeuronScores
from cna_lens.viz.figures.evidence import SEQUENTIAL
from cna_lens.viz.figures.style import ResultFigure, Style, drawn, whole_numbers

BINS = 256
"""Columns of the map; readers could not distinguish more."""


def scores(
    found: NeuronScores, circuit: Circuit | None = None, *, style: Style = "screen"
) -> ResultFigure:
    """Draw a map of layer x neuron, with one panel for positive and one for negative scores.

    Each layer has at most 256 columns, and a column is as dark as its strongest neuron, so no
    strong neuron vanishes among 28,672. The colours follow the square root of the magnitude, and
    keep their order in grey. Neurons of a circuit are marked in the panel of their sign in the
    map, and with the positive ones where their score is 0.

    >>> found = NeuronScores(torch.randn(48, dtype=torch.float64), tiny_layout, "contrast")
    >>> scores(found, found.top(k=3)).axes[0].get_ylabel()
    'layer'

    Args:
        found: from `rank` or `score_neurons`.
        circuit: neurons to mark.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: scores without any neuron, a score that is not a finite number, or a circuit of
            a model of another shape.
    """
    if not found.layout.n_neurons:
        raise InputError("there are no scores to show")
    if len(broken := (~found.values.isfinite()).nonzero()):
        first = int(broken[0])
        raise InputError(
            f"{len(broken)} scores are not finite numbers, that of {found.layout.neuron(first)} is "
            f"{float(found.values[first])}; a map has no colour for them, set them to 0"
        )
    if circuit is not None and circuit.layout != found.layout:
        raise InputError(
            f"the circuit is of a model with {circuit.layout.n_neurons} neurons, the scores are of "
            f"one with {found.layout.n_neurons}"
        )
    widest = max(found.layout.widths)
    sides = {"positive": 1, "negative": -1}
    maps = {name: _strongest(found, sign) for name, sign in sides.items()}
    most = max(float(np.nanmax(values)) for values in maps.values())
    tall = 2.2 if style == "paper" else min(7.0, max(3.2, 1.2 + 0.07 * found.layout.n_layers))
    size = (6 if style == "paper" else 26) / max(1, len(circuit or ()) / 200)
    norm = PowerNorm(0.5, vmin=0, vmax=most or 1)
    with drawn(style, 2, height=tall) as (figure, axes):
        for axis, (name, values) in zip(axes, maps.items(), strict=True):
            axis.imshow(
                values,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                cmap=SEQUENTIAL,
                norm=norm,
                extent=(-0.5, widest - 0.5, -0.5, found.layout.n_layers - 0.5),
            )
            axis.grid(visible=False)
            axis.set_facecolor("#eeeeee")
            marked = _on_side(found, circuit, sides[name])
            axis.scatter(
                [index for _, index in marked],
                [layer for layer, _ in marked],
                s=size,
                facecolors="none",
                edgecolors="#d55e00",
                linewidths=0.6 if style == "paper" else 1.0,
            )
            axis.set(title=f"{name} scores", xlabel="neuron", ylabel="layer")
            whole_numbers(axis.xaxis, axis.yaxis, at_most=5)
        figure.colorbar(axes[0].images[0], ax=axes, label=f"|score| ({found.unit})", shrink=0.8)
        figure.description = (
            f"Scores of {found.layout.n_neurons} neurons in {found.layout.n_layers} layers by "
            f"{found.method}, in {found.unit}. Largest magnitudes: "
            + ", ".join(f"{name} {np.nanmax(values):.3g}" for name, values in maps.items())
            + ("" if circuit is None else f"; {len(circuit)} neurons of a circuit are marked")
        )
    return figure


def _strongest(found: NeuronScores, sign: int) -> NDArray[np.float64]:
    """The largest magnitude with a sign in each bin of neurons; nan where a layer has none."""
    widest = max(found.layout.widths)
    n_bins = min(BINS, widest)
    bin_of = torch.arange(widest) * n_bins // widest
    rows = torch.full((found.layout.n_layers, n_bins), torch.nan, dtype=torch.float64)
    for layer, values in enumerate(found.by_layer()):
        present = bin_of[: len(values)]
        rows[layer, present] = 0.0
        one_sided = (sign * values).clamp(min=0)
        rows[layer].scatter_reduce_(0, present, one_sided, "amax")
    return rows.numpy()


def _on_side(found: NeuronScores, circuit: Circuit | None, sign: int) -> list[tuple[int, int]]:
    """Where a circuit's neurons of one sign stand; a circuit drawn at random has no scores."""
    if circuit is None:
        return []
    layout = found.layout
    places = [(neuron.layer, layout.flat(neuron)) for neuron in circuit.neurons]
    return [
        (layer, flat - layout.starts[layer])
        for layer, flat in places
        if (float(found.values[flat]) >= 0) == (sign > 0)
    ]
