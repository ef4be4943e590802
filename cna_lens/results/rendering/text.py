"""A summary as text, at most 80 columns wide."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from cna_lens.results.rendering.summary import Summary, Table
from cna_lens.results.rendering.visible import visible

WIDTH = 80
ROWS = 20


def plain_text(summary: Summary) -> str:
    """Show title, facts, a bar for each layer with neurons, and the first rows of the table."""
    out = StringIO()
    # In a notebook rich would show the text itself, and leave nothing to return.
    console = Console(
        file=out, width=WIDTH, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(_text(summary.title))
    facts = RichTable(show_header=False, box=None, pad_edge=False)
    for name, value in summary.facts:
        facts.add_row(_text(name), _text(value))
    console.print(facts)
    if summary.per_layer is not None:
        console.print("Neurons per layer", _layers(summary.per_layer), sep="\n")
    if summary.table is not None:
        shown = _fitting(console, summary.table.first(ROWS))
        console.print(_text(shown.caption), *map(_rows, _cut(console, shown)), sep="\n")
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _layers(per_layer: Sequence[int]) -> RichTable:
    table = RichTable("layer")
    table.add_column("neurons", justify="right")
    table.add_column("")
    widest = max(per_layer, default=0)
    for layer, count in enumerate(per_layer):
        if count:
            bar = "█" * max(1, round(40 * count / widest))
            table.add_row(f"{layer} of {len(per_layer) - 1}", str(count), bar)
    return table


def _fitting(console: Console, table: Table) -> Table:
    """The table with intervals where they fit into the width, and without them elsewhere."""
    return table if console.measure(_rows(table)).maximum < WIDTH else table.shortened()


def _cut(console: Console, table: Table) -> list[Table]:
    """Return the table, or parts of its columns where words would be broken to fit the width."""
    # The console's own width would cap what the words need.
    unbounded = console.options.update(width=10 * WIDTH)
    if console.measure(_rows(table), options=unbounded).minimum <= WIDTH:
        return [table]
    keys = list(range(table.keys))
    parts: list[list[int]] = [keys]
    for place in range(table.keys, len(table.columns)):
        longer = [*parts[-1], place]
        if console.measure(_rows(table.of_columns(longer))).maximum < WIDTH or parts[-1] == keys:
            parts[-1] = longer
        else:
            parts.append([*keys, place])
    return [table.of_columns(part) for part in parts]


def _rows(shown: Table) -> RichTable:
    table = RichTable()
    for place, name in enumerate(shown.columns):
        table.add_column(_text(name), justify="right" if shown.is_number(place) else "left")
    for row in shown.rows:
        table.add_row(*(_text(cell.text) for cell in row))
    return table


def _text(text: str) -> Text:
    return Text(visible(text))
