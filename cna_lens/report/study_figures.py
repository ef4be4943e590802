"""A study's values with their intervals, and the paper's values as crosses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cna_lens.report.study_table import StudyRow, StudyTable
from cna_lens.viz.figures.style import (
    COLOURS,
    ResultFigure,
    draw_band,
    draw_intervals,
    drawn,
    legend_below,
    line_look,
    shown,
)

MOST_ROWS = 60
"""A figure of more rows would not be legible."""


def study_figures(study: StudyTable) -> list[ResultFigure]:
    """Draw lines where the study has series; otherwise one row a value, by unit."""
    rows = [row for row in study.rows if row.ours is not None]
    in_lines = [row for row in rows if row.at is not None and row.series]
    if in_lines:
        panels = dict.fromkeys(row.quantity.split(",")[0] for row in in_lines)
        return [_lines(name, [row for row in in_lines if _is_of(row, name)]) for name in panels]
    units = [[row for row in rows if row.share is share] for share in (True, False)]
    return [_below_each_other(unit) for unit in units if 0 < len(unit) <= MOST_ROWS]


def _is_of(row: StudyRow, panel: str) -> bool:
    return row.quantity.split(",")[0] == panel


def _lines(title: str, rows: Sequence[StudyRow]) -> ResultFigure:
    with drawn("screen", 1) as (figure, (axis,)):
        for place, series in enumerate(dict.fromkeys(row.series for row in rows)):
            points = sorted(
                ((row.at, row) for row in rows if row.series == series and row.at is not None),
                key=lambda point: point[0],
            )
            at = [where for where, _ in points]
            values = [row.ours for _, row in points if row.ours is not None]
            label, scale = shown(series, 40), _scale(rows)
            draw_band(axis, at, values, line_look(place), label=label, scale=scale)
        axis.set(title=shown(title, 60), ylabel=_unit(rows))
        legend_below(figure, axis)
        figure.description = _described(rows)
    return figure


def _below_each_other(rows: Sequence[StudyRow]) -> ResultFigure:
    scale = _scale(rows)
    places = range(len(rows))
    values = [row.ours for row in rows if row.ours is not None]
    with drawn("screen", 1, height=1.4 + 0.26 * len(rows)) as (figure, (axis,)):
        look: dict[str, Any] = line_look(0) | {"linestyle": "none"}
        draw_intervals(axis, places, values, look, label="ours", scale=scale, across=True)
        theirs = [(scale * row.paper, at) for at, row in enumerate(rows) if row.paper is not None]
        if theirs:
            axis.plot(*zip(*theirs, strict=True), "x", color=COLOURS[4], label="the paper's")
        axis.set_yticks(places, [f"{shown(row.model, 26)}: {shown(row.quantity)}" for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel(_unit(rows))
        legend_below(figure, axis)
        figure.description = _described(rows)
    return figure


def _scale(rows: Sequence[StudyRow]) -> float:
    return 100.0 if all(row.share for row in rows) else 1.0


def _unit(rows: Sequence[StudyRow]) -> str:
    return "%" if _scale(rows) == 100 else "value"


def _described(rows: Sequence[StudyRow]) -> str:
    return "Ours with 95 % intervals. " + "; ".join(
        f"{row.model}, {row.quantity}: {row.ours}"
        + ("" if row.paper is None else f", the paper's {row.paper:.3g}")
        for row in rows
    )
