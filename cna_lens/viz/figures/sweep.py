"""Steering methods: behaviour against strength, and against cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from cna_lens.errors import InputError
from cna_lens.results.statistics import Estimate, Rate
from cna_lens.steering.comparison.table import Comparison, Row
from cna_lens.steering.methods.choice import Prefer
from cna_lens.viz.figures.style import (
    ResultFigure,
    Style,
    bars,
    draw_band,
    drawn,
    legend_below,
    line_look,
    shown,
)


def sweep(comparison: Comparison, *, style: Style = "screen") -> ResultFigure:
    """Draw behaviour and quality against strength, each method with its 95 % band.

    The dashed line is the unsteered model. Behaviour is the share of answers to positive prompts
    that show it, with Wilson's interval. Quality is the mean 4-gram quality of these answers, with
    a bootstrap interval.

    Args:
        comparison: from `compare`.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: nothing but the unsteered model was compared.
    """
    baseline, *rows = comparison.rows
    methods = _methods(rows)
    n = baseline.behaviour.n
    with drawn(style, 2) as (figure, axes):
        behaviour = f"answers with the behaviour, n = {n}", "% of answers"
        quality = f"quality of the answers, n ≤ {n}", "4-gram quality"
        for axis, name, scale, (title, unit) in (
            (axes[0], "behaviour", 100.0, behaviour),
            (axes[1], "quality", 1.0, quality),
        ):
            _draw_baseline(axis, getattr(baseline, name), scale)
            for place, (method, steered) in enumerate(methods.items()):
                rows_of = (baseline, *steered)
                known = {row.strength: getattr(row, name) for row in rows_of if getattr(row, name)}
                values, look = list(known.values()), line_look(place)
                draw_band(axis, list(known), values, look, label=shown(method), scale=scale)
            limits = (-0.03 * scale, 1.03 * scale)
            axis.set(title=title, xlabel="strength", ylabel=unit, ylim=limits)
        legend_below(figure, axes[0])
        figure.description = "Behaviour and quality against strength. " + "; ".join(
            f"{row.method} at {row.strength:g}: behaviour {row.behaviour}, quality {row.quality}"
            for row in comparison.rows
        )
    return figure


def pareto(
    comparison: Comparison, *, prefer: Prefer = "lowest", style: Style = "screen"
) -> ResultFigure:
    """Draw the behaviour that is left against the cost of steering on other prompts.

    Each point is a method at a strength; lines join them from weak to strong. The cost is the KL
    divergence per token from the unsteered model on its answers to negative prompts. Down and to
    the left is better. Rings mark the points that no other point beats on both
    (`Comparison.front`). Points of infinite cost are left out.

    Args:
        comparison: from `compare`.
        prefer: "highest" where steering should bring the behaviour about, so that up is better.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: nothing but the unsteered model was compared, or `prefer` is neither.
    """
    baseline, *rows = comparison.rows
    methods = _methods(rows)
    with drawn(style, 1, height=2.6 if style == "paper" else 4.6) as (figure, (axis,)):
        _draw_baseline(axis, baseline.behaviour, scale=100.0)
        for place, (name, steered) in enumerate(methods.items()):
            points = [
                (row, row.kl_per_token)
                for row in steered
                if row.kl_per_token is not None and math.isfinite(row.kl_per_token.value)
            ]
            costs = [cost for _, cost in points]
            left = [row.behaviour for row, _ in points]
            look = line_look(place)
            axis.errorbar(
                [cost.value for cost in costs],
                [100 * each.value for each in left],
                xerr=bars(costs),
                yerr=bars(left, 100.0),
                label=shown(name),
                elinewidth=0.7,
                **look,
            )
            for row, cost in points:
                axis.annotate(
                    f"{row.strength:g}",
                    (cost.value, 100 * row.behaviour.value),
                    xytext=(4, 4),
                    textcoords="offset points",
                    color=look["color"],
                    fontsize="small",
                )
        front = [
            row
            for row in comparison.front(prefer)
            if row.kl_per_token is not None and math.isfinite(row.kl_per_token.value)
        ]
        axis.scatter(
            [row.kl_per_token.value for row in front if row.kl_per_token],
            [100 * row.behaviour.value for row in front],
            s=110 if style == "screen" else 45,
            facecolors="none",
            edgecolors="#000000",
            linewidths=1,
            zorder=5,
            label="not beaten",
        )
        n_negative = max((row.kl_per_token.n for row in rows if row.kl_per_token), default=0)
        axis.set_xscale("symlog", linthresh=0.01)
        axis.set_xlim(left=0)
        axis.set_ylim(-3, 103)
        axis.set(
            xlabel=f"KL per token (nats), n = {n_negative} prompts",
            ylabel=f"behaviour (% of {baseline.behaviour.n} answers)",
        )
        legend_below(figure, axis)
        figure.description = "Behaviour left against KL per token. Not beaten: " + "; ".join(
            f"{row.method} at {row.strength:g}: behaviour {row.behaviour}, KL {row.kl_per_token}"
            for row in front
        )
    return figure


def _methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    methods: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.strength):
        methods.setdefault(row.method, []).append(row)
    if not methods:
        raise InputError("only the unsteered model was compared; give `compare` a method")
    return methods


def _draw_baseline(axis: Axes, value: Rate | Estimate | None, scale: float) -> None:
    if value is not None:
        axis.axhline(
            scale * value.value, color="#555555", linewidth=1, linestyle="--", label="unsteered"
        )
