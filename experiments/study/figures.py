"""Figures of a report's rows, which are also written as a table beside the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cna_lens import CnaLensError
from experiments.study.reporting import Report, Row


def lines(*panels: str, across: str) -> Callable[[Report, Path], None]:
    """Draw a panel for each quantity, and in it a line with its interval for each series.

    Args:
        panels: how the quantities of a panel's rows begin.
        across: the name of the horizontal axis, on which rows have their `at`.

    Returns:
        Writes a report, whose rows have `at` and `series`, to a .png or .svg file. It raises
        CnaLensError where matplotlib is not installed.
    """

    def draw(report: Report, path: Path) -> None:
        _draw(report, path, panels, across)

    return draw


def _draw(report: Report, path: Path, panels: Sequence[str], across: str) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CnaLensError(
            "figures need matplotlib; install it with pip install matplotlib"
        ) from error
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        rows = [row for row in report.rows if row.quantity.startswith(panel) and row.ours]
        for series in dict.fromkeys(row.series for row in rows if row.series):
            _draw_line(axes, series, [row for row in rows if row.series == series])
        axes.set_title(panel)
        axes.set_xlabel(across)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def _draw_line(axes: Any, series: str, rows: Sequence[Row]) -> None:
    known = [(row.at, row.ours) for row in rows if row.at is not None and row.ours]
    points = sorted(known, key=lambda point: point[0])
    places = [at for at, _ in points]
    low = [value.value if value.low is None else value.low for _, value in points]
    high = [value.value if value.high is None else value.high for _, value in points]
    (line,) = axes.plot(places, [value.value for _, value in points], marker="o", label=series)
    axes.fill_between(places, low, high, alpha=0.2, color=line.get_color())
