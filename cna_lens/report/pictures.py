"""Figures of `cna_lens.viz` as images that a page holds."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from cna_lens.report.sections import Picture

if TYPE_CHECKING:
    from cna_lens.viz.figures.style import ResultFigure

LARGEST_SVG = 150_000
"""Bytes; figures of more, such as those of many points, become PNG."""

PIXELS_PER_INCH = 100


def can_draw() -> bool:
    """Whether the extra `viz` is installed."""
    return all(find_spec(name) is not None for name in ("matplotlib", "circuitsvis"))


def picture(figure: ResultFigure) -> Picture:
    """A figure as an image, sharp at every size where that is no heavy file."""
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    svg = figure.image("svg")
    if len(svg) <= LARGEST_SVG:
        return Picture(svg, "svg", width, figure.description)
    return Picture(figure.image("png"), "png", width, figure.description)
