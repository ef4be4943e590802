"""A summary as Markdown, for cards on the Hugging Face Hub and other pages of text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cna_lens.results.rendering.summary import Summary, Table
from cna_lens.results.rendering.visible import visible

ROWS = 20


def markdown_text(text: str) -> str:
    r"""Plain text that Markdown shows unchanged, on one line.

    >>> print(markdown_text("a|b <i> [x](y)"))
    a\|b \<i\> \[x\](y)
    """
    return re.sub(r"([\\`*_{}\[\]<>|~#$&])", r"\\\1", visible(text))


def summary_markdown(summary: Summary, heading: str = "###") -> str:
    """Show title, facts and the first rows of the table.

    >>> print(summary_markdown(Summary("A result", [("k", "3")])))
    ### A result
    <BLANKLINE>
    - k: 3
    """
    parts = [f"{heading} {markdown_text(summary.title)}"]
    if summary.facts:
        parts.append(facts_markdown(summary.facts))
    if summary.table is not None and summary.table.rows:
        parts.append(_table(summary.table.first(ROWS)))
    return "\n\n".join(parts)


def facts_markdown(facts: Sequence[tuple[str, str]]) -> str:
    """A list of named values."""
    return "\n".join(f"- {markdown_text(name)}: {markdown_text(value)}" for name, value in facts)


def _table(table: Table) -> str:
    sides = ["--:" if table.is_number(place) else ":--" for place in range(len(table.columns))]
    rows = [table.columns, *((cell.text for cell in row) for row in table.rows)]
    head, *body = (f"| {' | '.join(map(markdown_text, row))} |" for row in rows)
    return "\n".join([head, f"| {' | '.join(sides)} |", *body])
