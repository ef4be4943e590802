"""What the commands print, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cna_lens.circuit import Circuit

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


def print_circuit(circuit: Circuit, strongest: int = 8) -> None:
    """A circuit's provenance, its neurons for each layer, and its strongest neurons."""
    console.print(_provenance_table(circuit))
    console.print(_layer_table(circuit))
    table = Table("neuron", title=f"The {min(strongest, len(circuit))} strongest neurons")
    table.add_column("score", justify="right")
    for neuron, score in list(zip(circuit.neurons, circuit.scores, strict=True))[:strongest]:
        table.add_row(f"{neuron.mlp}, {neuron.index}", f"{score:+.3f}")
    console.print(table)


def _provenance_table(circuit: Circuit) -> Table:
    p = circuit.provenance
    table = Table(show_header=False, box=None, title="Circuit")
    counted = " of all experts" if circuit.layout.experts else ""
    size = f"{len(circuit)} of {circuit.layout.n_neurons} neurons{counted}"
    share = len(circuit) / circuit.layout.n_neurons
    table.add_row("model", escape(p.model or "unknown"))
    table.add_row("size", f"{size} ({share:.2%}), {len(circuit.by_layer())} layers")
    if p.positive and p.negative:
        table.add_row("prompts", f"{p.positive.count} positive, {p.negative.count} negative")
    if p.rank:
        table.add_row("ranking", f"{p.rank}, sign {p.sign}, token {p.position}")
    if p.universal:
        table.add_row(
            "universal",
            f"{p.universal.n_neurons} neurons excluded, {p.universal.applied} the top k",
        )
    if p.weights_sha256:
        table.add_row("weights", p.weights_sha256[:16])
    return table


def _layer_table(circuit: Circuit) -> Table:
    by_layer = circuit.by_layer()
    widest = max((len(indices) for indices in by_layer.values()), default=1)
    table = Table("layer", title="Neurons per layer")
    table.add_column("neurons", justify="right")
    table.add_column("")
    for layer, indices in by_layer.items():
        bar = "█" * max(1, round(40 * len(indices) / widest))
        table.add_row(f"{layer} of {circuit.layout.n_layers - 1}", str(len(indices)), bar)
    return table


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
