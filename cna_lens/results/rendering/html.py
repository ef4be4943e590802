"""A summary as self-contained HTML for light and dark pages; a click sorts its table."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from cna_lens.results.rendering.summary import Cell, Summary, Table
from cna_lens.results.rendering.visible import visible

ROWS = 200


def escaped(text: object) -> str:
    """Escape text for the content and the attributes of HTML.

    Hidden characters, and characters that would change the text around them, are written out.

    >>> escaped('</script> & "x"')
    '&lt;/script&gt; &amp; &quot;x&quot;'
    """
    return html.escape(visible(str(text)))


def embedded_json(value: Any) -> str:
    """JSON for an attribute; numbers must be finite, others must be given as None."""
    return html.escape(json.dumps(value, allow_nan=False, separators=(",", ":")))


def text_html(name: str, text: str) -> str:
    """A paragraph of text with a class of `style.css`."""
    return f'<p class="{name}">{escaped(text)}</p>'


def styled(body: str) -> str:
    """A fragment in a box with its style sheet."""
    return f'<div class="cna"><style>{asset("style.css")}</style>{body}</div>'


@cache
def asset(name: str) -> str:
    """A style sheet or script of this package."""
    return (files("cna_lens.results.rendering") / name).read_text(encoding="utf-8")


def summary_html(summary: Summary) -> str:
    """Show title, facts, a bar for each layer, and a table that a click on its head sorts."""
    parts = [f'<p class="cna-title">{escaped(summary.title)}</p>', facts_html(summary.facts)]
    if summary.per_layer is not None:
        parts.append(layer_bars(summary.per_layer))
    if summary.table is not None:
        parts.append(table_html(summary.table.first(ROWS)))
    return styled("".join(parts))


def facts_html(facts: Sequence[tuple[str, str]]) -> str:
    """A list of named values."""
    entries = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in facts)
    return f"<dl>{entries}</dl>"


def table_html(table: Table) -> str:
    """A table with the script that sorts it; without scripts it stays a plain table."""
    return f"{table_markup(table)}<script>{asset('sort.js')}</script>"


def table_markup(table: Table) -> str:
    """A table for a page that includes `sort.js` after it."""
    numbers = [table.is_number(place) for place in range(len(table.columns))]
    side = ["cna-number" if number else "cna-text" for number in numbers]
    head = "".join(
        f'<th scope="col" class="{align}">{escaped(name)}</th>'
        for name, align in zip(table.columns, side, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td class="{align}"{_sorted_by(cell)}>{escaped(cell.text)}</td>'
            for cell, align in zip(row, side, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="cna-scroll" tabindex="0"><table class="cna-table">'
        f"<caption>{escaped(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def layer_bars(per_layer: Sequence[int]) -> str:
    """A bar for each layer, with its number on hover and for screen readers."""
    most = max(per_layer, default=0)
    width, height = 600, 72
    step = width / max(1, len(per_layer))
    bars = "".join(
        f'<rect x="{layer * step + step * 0.1:.2f}" y="{height - tall:.2f}" '
        f'width="{step * 0.8:.2f}" height="{tall:.2f}">'
        f"<title>layer {layer}: {_neurons(count)}</title></rect>"
        for layer, count in enumerate(per_layer)
        if (tall := height * count / most if most else 0)
    )
    counts = ", ".join(f"layer {layer}: {n}" for layer, n in enumerate(per_layer) if n)
    return (
        '<figure class="cna-layers"><figcaption>Neurons per layer, '
        f"at most {most}</figcaption>"
        f'<svg role="img" viewBox="0 0 {width} {height}" preserveAspectRatio="none" '
        f'aria-label="Neurons per layer. {counts or "none"}">'
        f'{bars}<line x1="0" y1="{height}" x2="{width}" y2="{height}"/></svg>'
        f"<div><span>layer 0</span><span>layer {max(0, len(per_layer) - 1)}</span></div></figure>"
    )


def _sorted_by(cell: Cell) -> str:
    # JSON's NaN and Infinity are JavaScript's own names.
    return "" if cell.number is None else f' data-sort="{json.dumps(cell.number)}"'


def _neurons(count: int) -> str:
    return "1 neuron" if count == 1 else f"{count} neurons"
