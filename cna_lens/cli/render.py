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
