"""How many of the known neurons rankings put first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cna_lens.errors import InputError
from cna_lens.evidence.known_truth import recall as recall_at
from cna_lens.results.circuit import Circuit
from cna_lens.results.scores import NeuronScores
from cna_lens.viz.figures.style import (
    ResultFigure,
    Style,
    drawn,
    legend_below,
    line_look,
    shown,
)

POINTS = 300
"""Sizes at which a curve is drawn, evenly on the logarithm."""


def recall(
    rankings: Mapping[str, NeuronScores], truth: Circuit, *, style: Style = "screen"
) -> ResultFigure:
    """Draw the share of the known neurons that are among each ranking's first k, against k.

    The grey line is what an order at random finds. The vertical line is the true number.

    >>> found = NeuronScores(torch.randn(48, dtype=torch.float64), tiny_layout, "contrast")
    >>> recall({"contrast": found}, found.top(k=3)).axes[0].get_xlabel()
    'first k of 48 neurons'

    Args:
        rankings: scores of all neurons, by name.
        truth: the neurons that carry the behaviour, such as `planted_truth(name)`.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: there is no ranking, or one is of another model than the truth.
    """
    if not rankings:
        raise InputError("there is no ranking to show")
    n, k = truth.layout.n_neurons, len(truth)
    sizes = np.unique(np.geomspace(1, n, POINTS).round().astype(int))
    said: list[str] = []
    with drawn(style, 1, height=3.2) as (figure, axes):
        axis = axes[0]
        axis.plot(sizes, sizes / n, color="#888888", linestyle=":", label="at random")
        axis.axvline(k, color="#888888", linewidth=0.8, label=f"the true {k}")
        for row, (name, scores) in enumerate(rankings.items()):
            found = recall_at(scores, truth)
            look: dict[str, Any] = line_look(row) | {"marker": "none"}
            axis.plot(sizes, found[sizes - 1], label=shown(name), **look)
            at = ", ".join(
                f"{found[size - 1]:.2f} among the first {size}" for size in (k, 10 * k) if size <= n
            )
            said.append(f"{name}: {at}")
        axis.set_xscale("log")
        axis.set_ylim(0, 1.02)
        axis.set_xlabel(f"first k of {n:,} neurons")
        axis.set_ylabel("known neurons found")
        legend_below(figure, axis)
        figure.description = "Share of the known neurons found. " + "; ".join(said)
    return figure
