"""What several commands print, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cna_lens.results.circuit import Circuit
from cna_lens.results.files import json_text

console = Console()
progress_console = Console(stderr=True)


def is_narrow() -> bool:
    """Whether the terminal has fewer than 80 columns, so that tables need to be narrower."""
    return console.width < 80


def ranking_table(title: str, first: str, columns: Sequence[str]) -> Table:
    """Return an empty table with a row for each ranking, which fits into 60 columns."""
    narrow = is_narrow()
    table = Table(title=title, box=None, pad_edge=False) if narrow else Table(title=title)
    table.add_column(first, overflow="fold")
    for column in columns:
        heading = column.replace("precision", "preci-\nsion").replace(" ", "\n")
        table.add_column(heading if narrow else column, justify="right", no_wrap=narrow)
    return table


def ranking_cell(name: str) -> str:
    """Return a ranking's name, which a narrow terminal shows on several lines."""
    return name.replace("_", "_\n") if is_narrow() else name


def print_json(record: dict[str, Any]) -> None:
    """Print plain data as JSON, its keys sorted."""
    typer.echo(json_text(record, indent=1))


def circuit_record(circuit: Circuit) -> dict[str, Any]:
    """Return a circuit as plain data."""
    return {
        "k": len(circuit),
        "n_neurons": circuit.layout.n_neurons,
        "neurons": [
            {**n._asdict(), "score": s}
            for n, s in zip(circuit.neurons, circuit.scores, strict=True)
        ],
        "provenance": circuit.provenance.record() | {"versions": dict(circuit.provenance.versions)},
    }


def print_answers(
    prompts: Sequence[str], before: Sequence[str], after: Sequence[str], multiplier: float
) -> None:
    """Print each prompt with its two answers side by side."""
    for prompt, unsteered, steered in zip(prompts, before, after, strict=True):
        table = Table(title=escape(prompt), show_lines=False)
        table.add_column("unsteered", ratio=1)
        table.add_column(f"multiplier {multiplier:g}", ratio=1)
        table.add_row(escape(unsteered), escape(steered))
        console.print(table)


def print_report_path(out: Path) -> None:
    """Print where the report is, on one line that can be copied."""
    typer.echo(f"Report for a browser: {out}")
