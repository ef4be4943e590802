"""Figures of `cna_lens.viz` as images that a page holds."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from cna_lens.report.sections import Picture

if TYPE_CHECKING:
    from cna_lens.viz.figures.style import ResultFigure

LARGEST_SVG = 150_000
"""Bytes; larger figures, such as those of many points, become PNG."""

PIXELS_PER_INCH = 100


def can_draw() -> bool:
    """Whether the extra `viz` is installed."""
    return all(find_spec(name) is not None for name in ("matplotlib", "circuitsvis"))


def figure(view: str, result: object) -> tuple[Picture, ...]:
    """Draw a result by the view of this name in `cna_lens.viz`; nothing without the extra `viz`."""
    if not can_draw():
        return ()
    from cna_lens import viz

    return (picture(getattr(viz, view)(result)),)


def picture(figure: ResultFigure) -> Picture:
    """A figure as an SVG image, or as PNG where the SVG would be too large."""
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    svg = figure.image("svg")
    if len(svg) <= LARGEST_SVG:
        return Picture(svg, "svg", width, figure.description)
    return Picture(figure.image("png"), "png", width, figure.description)
