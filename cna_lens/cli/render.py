"""What the commands print, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cna_lens.results.circuit import Circuit

console = Console()
progress_console = Console(stderr=True)


def quiet_loading() -> None:
    """Turn off the loading bars of Transformers, which say nothing of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def circuit_record(circuit: Circuit) -> dict[str, Any]:
    """A circuit as plain data."""
    return {
        "k": len(circuit),
        "n_neurons": circuit.layout.n_neurons,
        "neurons": [
            {**n._asdict(), "score": s}
            for n, s in zip(circuit.neurons, circuit.scores, strict=True)
        ],
        "provenance": asdict(circuit.provenance) | {"versions": dict(circuit.provenance.versions)},
    }


def print_circuit(circuit: Circuit) -> None:
    """A circuit's provenance, its neurons for each layer, and its strongest neurons."""
    console.print(str(circuit), markup=False, highlight=False)


def print_answers(
    prompts: Sequence[str], before: Sequence[str], after: Sequence[str], multiplier: float
) -> None:
    """Each prompt with its answers, side by side."""
    for prompt, unsteered, steered in zip(prompts, before, after, strict=True):
        table = Table(title=escape(prompt), show_lines=False)
        table.add_column("unsteered", ratio=1)
        table.add_column(f"multiplier {multiplier:g}", ratio=1)
        table.add_row(escape(unsteered), escape(steered))
        console.print(table)
