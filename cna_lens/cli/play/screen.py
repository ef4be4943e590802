"""The tables that `play` shows: two answers side by side, neurons, and commands."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cna_lens.cli.play.commands import HELP
from cna_lens.cli.play.exchange import Exchange, Written
from cna_lens.results.circuit import Circuit
from cna_lens.results.rendering.visible import visible

TOP = 20


def exchange_table(exchange: Exchange) -> Table:
    """Return a table of both answers, each below its label and log-odds."""
    table = Table(expand=True, show_lines=True)
    sides = ("unsteered", exchange.unsteered), (str(exchange.settings), exchange.steered)
    for name, written in sides:
        table.add_column(Text(f"{name}\n{label(written)}"), ratio=1, overflow="fold")
    table.add_row(*(shown(written.text) for _, written in sides))
    return table


def label(written: Written) -> str:
    """Say whether an answer is a refusal, with the log-odds that it begins as one.

    >>> label(Written("I'm sorry, I can't.", log_odds=2.0, finished=True))
    'refused · log-odds of a refusal +2.00'
    """
    if written.log_odds is None:
        return "…"
    state = "refused" if written.refused else "answered" if written.finished else "…"
    return f"{state} · log-odds of a refusal {written.log_odds:+.2f}"


def shown(text: str) -> Text:
    """Return an answer line by line, with control characters spelled out."""
    return Text("\n".join(visible(line) for line in text.split("\n")))


def neuron_table(circuit: Circuit) -> RenderableType:
    """Return a table of the strongest neurons, and their number."""
    table = Table("rank", "neuron", "score")
    pairs = zip(circuit.neurons[:TOP], circuit.scores[:TOP], strict=True)
    for rank, (neuron, score) in enumerate(pairs, start=1):
        table.add_row(str(rank), neuron.label, f"{score:+.3f}")
    count = f"{min(TOP, len(circuit))} of {len(circuit)} neurons that are steered"
    return Group(table, Text(count, style="dim"))


def help_table() -> Table:
    """Return a table of the commands and their effects."""
    table = Table(show_header=False, box=None)
    for command, does in HELP.items():
        table.add_row(Text(command, style="bold"), Text(does))
    return table
