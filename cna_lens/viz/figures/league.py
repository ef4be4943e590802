"""Rankings on planted models: how many planted neurons they find, and what their neurons do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cna_lens.errors import InputError
from cna_lens.viz.figures.style import ResultFigure, Style, drawn, line_look, shown

if TYPE_CHECKING:
    from cna_lens.evidence.league import League


def league(found: League, *, style: Style = "screen") -> ResultFigure:
    """Draw each ranking's area under the curve and share of the oracle's effect.

    Each mark is one planted model. The line in a row is the mean over the models.

    Args:
        found: the result of `cna_lens.evidence.bench_rankings`.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: there is no result.
    """
    if not found.scored:
        raise InputError("there is no result to show")
    frame = found.to_frame()
    rankings = list(dict.fromkeys(frame["ranking"]))
    panels = (
        ("auroc_within_layers", "area under the curve within layers (.5 is chance)", 0.5),
        ("share_of_oracle", "behaviour lost / lost by the planted neurons", 1.0),
    )
    said: list[str] = []
    with drawn(style, 2, height=1.2 + 0.4 * len(rankings)) as (figure, axes):
        for axis, (name, label, reference) in zip(axes, panels, strict=True):
            axis.axvline(reference, color="#888888", linestyle=":")
            for row, ranking in enumerate(rankings):
                values = [v for v in frame[frame["ranking"] == ranking][name] if not math.isnan(v)]
                if not values:
                    continue
                look: dict[str, Any] = line_look(row) | {"linestyle": "none", "alpha": 0.6}
                mean = sum(values) / len(values)
                axis.plot(values, [row] * len(values), **look)
                axis.plot([mean, mean], [row - 0.3, row + 0.3], color=look["color"])
                said.append(f"{ranking}, {name}: {mean:.2f} over {len(values)} models")
            axis.set_ylim(len(rankings) - 0.5, -0.5)
            axis.grid(visible=False, axis="y")
            labelled = axis is axes[0] or style == "paper"
            names = [shown(each) for each in rankings]
            axis.set_yticks(range(len(rankings)), names if labelled else [""] * len(rankings))
            axis.set_xlabel(label)
        figure.description = "Rankings on planted models. " + "; ".join(said)
    return figure
