"""One look for all figures, on screens and on paper, in colours that stay distinct in grey."""

from __future__ import annotations

import base64
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cna_lens.errors import InputError
from cna_lens.results.rendering import escaped, styled
from cna_lens.results.statistics import Estimate, Rate

Style = Literal["screen", "paper"]

COLUMN_INCHES = 3.3
"""The width of one column of a paper set in two."""

# Okabe and Ito's colours, ordered so that neighbours also differ in lightness.
COLOURS = ("#0072b2", "#e69f00", "#000000", "#56b4e9", "#d55e00", "#009e73", "#cc79a7")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (3, 1, 1, 1, 1, 1)), "-", "--")

_COMMON = {
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    # Text is kept as text, and the same figure gives the same bytes.
    "pdf.fonttype": 42,
    "svg.hashsalt": "cna-lens",
}
_SIZES: dict[Style, dict[str, Any]] = {
    "screen": {
        "font.size": 10,
        "axes.titlesize": 10,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "figure.dpi": 110,
    },
    "paper": {
        "font.size": 7,
        "axes.titlesize": 7,
        "axes.labelsize": 7,
        "axes.linewidth": 0.6,
        "lines.linewidth": 1.0,
        "lines.markersize": 3,
        "figure.dpi": 300,
    },
}


class ResultFigure(Figure):
    """A Matplotlib figure that shows itself in a notebook and is described in words.

    Attributes:
        style: "screen" or "paper".
        description: what it shows, for readers who do not see it.
    """

    style: Style = "screen"
    description: str = ""

    def save(self, path: str | Path) -> list[Path]:
        """Write the figure as PDF and SVG for paper, or as PNG and SVG for screens.

        Args:
            path: without a suffix; each format adds its own.

        Returns:
            The files.
        """
        formats = ("pdf", "svg") if self.style == "paper" else ("png", "svg")
        written = [Path(f"{path}.{form}") for form in formats]
        for file in written:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(self.image(file.suffix[1:]))
        return written

    def image(self, form: str) -> bytes:
        """The figure as a "png", "svg" or "pdf"; the same figure gives the same bytes."""
        out = BytesIO()
        dated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
        with mpl.rc_context(_settings(self.style)):
            self.savefig(out, format=form, metadata=dated)
        return out.getvalue()

    def _repr_html_(self) -> str:
        """The figure as an image with its description."""
        image = base64.b64encode(self.image("png")).decode()
        width = round(self.get_figwidth() * 110)
        return styled(
            f'<div class="cna-figure"><img alt="{escaped(self.description)}" width="{width}" '
            f'style="min-width:{min(width, 620)}px" src="data:image/png;base64,{image}"></div>'
        )


@contextmanager
def drawn(
    style: Style, n_panels: int = 1, *, height: float | None = None, below: bool | None = None
) -> Generator[tuple[ResultFigure, list[Axes]]]:
    """Yield a figure and its panels; Matplotlib has the style's settings in the meantime.

    Args:
        style: "screen", or "paper" for a column of 3.3 inches.
        n_panels: how many panels.
        height: of one panel, in inches.
        below: put the panels below each other; by default on paper only.

    Raises:
        InputError: an unknown style.
    """
    if style not in get_args(Style):
        raise InputError(f"style is {style!r}, expected one of {', '.join(get_args(Style))}")
    below = style == "paper" if below is None else below
    rows, columns = (n_panels, 1) if below else (1, n_panels)
    width = COLUMN_INCHES if style == "paper" else max(6.0, 4.6 * columns)
    tall = height or (1.9 if style == "paper" else 3.6)
    with mpl.rc_context(_settings(style)):
        figure = ResultFigure(figsize=(width, tall * rows), layout="constrained")
        figure.style = style
        axes = figure.subplots(rows, columns, squeeze=False)
        yield figure, [axis for row in axes for axis in row]


def line_look(place: int) -> dict[str, Any]:
    """Colour, marker and dashes of a series; no two of 49 share both colour and marker."""
    turn = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": DASHES[(place + turn) % len(DASHES)],
    }


def spans(
    values: Sequence[Rate | Estimate], scale: float = 1.0
) -> tuple[list[float], list[float], list[float]]:
    """Values and both ends of their intervals; without an interval, both ends are the value."""
    return (
        [scale * each.value for each in values],
        [scale * (each.value if each.low is None else each.low) for each in values],
        [scale * (each.value if each.high is None else each.high) for each in values],
    )


def bars(values: Sequence[Rate | Estimate], scale: float = 1.0) -> list[list[float]]:
    """The lengths of error bars below and above values.

    No length is negative, although the percentiles of resamples need not enclose the value.
    """
    centres, lows, highs = spans(values, scale)
    return [
        [max(0.0, centre - low) for centre, low in zip(centres, lows, strict=True)],
        [max(0.0, high - centre) for centre, high in zip(centres, highs, strict=True)],
    ]


def draw_band(
    axis: Axes,
    x: Sequence[float | int],
    values: Sequence[Rate | Estimate],
    look: dict[str, Any],
    *,
    label: str,
    scale: float = 1.0,
) -> None:
    """Draw values as a line, with their intervals as a band."""
    centres, lows, highs = spans(values, scale)
    axis.plot(x, centres, label=label, **look)
    axis.fill_between(x, lows, highs, color=look["color"], alpha=0.18, linewidth=0)


def draw_intervals(
    axis: Axes,
    at: Sequence[float | int],
    values: Sequence[Rate | Estimate],
    look: dict[str, Any],
    *,
    label: str | None = None,
    scale: float = 1.0,
    across: bool = False,
) -> None:
    """Draw values with error bars, upright at places on x, or across at places on y."""
    centres, _, _ = spans(values, scale)
    x, y, along = (centres, at, "xerr") if across else (at, centres, "yerr")
    error: dict[str, Any] = {along: bars(values, scale)}
    axis.errorbar(x, y, label=label, capsize=2, elinewidth=1, **error, **look)


def whole_numbers(*axes: Axis, at_most: int = 9) -> None:
    """Put ticks at whole numbers only, as for layers and neurons."""
    for axis in axes:
        axis.set_major_locator(MaxNLocator(at_most, integer=True))


def legend_below(figure: ResultFigure, axis: Axes) -> None:
    """Put one legend for all panels below them."""
    handles, labels = axis.get_legend_handles_labels()
    columns = 2 if figure.get_figwidth() < 8 else 4
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def legend_above(axis: Axes) -> None:
    """Put a legend of one panel above it."""
    columns = len(axis.get_legend_handles_labels()[1])
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, columnspacing=1.2)


def shown(text: str, longest: int = 28) -> str:
    """A name as a label: without mathematics or hidden characters, and shortened."""
    from cna_lens.results.rendering.visible import visible

    plain = visible(text)
    short = plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
    return short.replace("$", r"\$")


def _settings(style: Style) -> Any:
    return _COMMON | _SIZES[style]
