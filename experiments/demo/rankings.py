"""Which ranking finds the neurons that refusals depend on, at equal size?

    python -m experiments.demo.rankings --model demo-refusal

Every ranking scores the neurons on the packaged discovery set; its top 0.1, 0.3 and 1 % are set to
their means over benign prompts; measured is the drop of the log-odds of a refusal of held-out
harmful requests. The figures go to `experiments/results/rankings_<model>.json`.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from cna_lens import NeuronScores, Selection
from cna_lens.evidence import Necessity
from cna_lens.metrics import refusal_log_odds
from experiments.shared.rankings import scored
from experiments.shared.result_files import (
    RESULTS,
    Folder,
    Model,
    command,
    environment,
    write_record,
)

FRACTIONS = (0.001, 0.003, 0.01)
ABLATIONS = (
    ("last_prompt", "abs"),
    ("last_prompt", "positive"),
    ("last_prompt", "negative"),
    ("all", "abs"),
)
"""Positions at which neurons are ablated, and the sign of the scores that count."""

RANDOM_SEEDS = (0, 1, 2)

app = typer.Typer()


@app.command()
def main(
    model: Model = "demo",
    out: Folder = RESULTS,
    n_prompts: Annotated[int, typer.Option(help="Held-out harmful requests.", min=2)] = 60,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Drop of the refusal log-odds for each ranking, size, sign and place of the ablation."""
    loaded = cna_lens.load_model(model)
    discovery = cna_lens.prompt_set("refusal")
    held_out = cna_lens.prompt_set("refusal_evaluation").positive[:n_prompts]
    means = cna_lens.collect(loaded, discovery.negative, progress=True)
    universal = cna_lens.universal_neurons(loaded, progress=True)
    sizes = [cna_lens.circuit_size(means.layout.n_neurons, fraction) for fraction in FRACTIONS]
    scores = scored(loaded, discovery.positive, discovery.negative, random_seeds=RANDOM_SEEDS)
    found: dict[str, dict[str, Any]] = {}
    for positions, sign in ABLATIONS:
        drops = cna_lens.necessity(
            loaded,
            held_out,
            scores,
            refusal_log_odds,
            means,
            sizes=sizes,
            selection=Selection(sign=sign, universal=universal),
            positions=positions,
            seed=seed,
        )
        found.setdefault(positions, {})[sign] = drops.record()
        show(drops, f"{model}, {sign} scores, ablated at {positions}", sizes)
    late = {
        name: [share_late(each, Selection(k=k, universal=universal)) for k in sizes]
        for name, each in scores.items()
    }
    record = {
        "command": command("experiments.demo.rankings"),
        "model": model,
        "weights_sha256": cna_lens.weights_hash(loaded),
        "n_discovery": [len(discovery.positive), len(discovery.negative)],
        "n_prompts": len(held_out),
        "sizes": sizes,
        "seed": seed,
        **environment(),
        "share_in_last_third": late,
        "necessity": found,
    }
    write_record(out / f"rankings_{model}.json", record)


def share_late(scores: NeuronScores, selection: Selection) -> float:
    """The share of a circuit that lies in the last third of the layers."""
    circuit = selection.circuit(scores)
    first_late = 2 * scores.layout.n_layers // 3
    return sum(neuron.layer >= first_late for neuron in circuit) / len(circuit)


def show(drops: Necessity, title: str, sizes: list[int]) -> None:
    """Drops with their intervals, 80 columns wide."""
    table = Table("ranking", *(f"k = {size}" for size in sizes), title=title)
    rows: dict[str, list[str]] = {}
    for point in drops.points:
        drop = point.drop
        cell = f"{drop.value:.2f} [{drop.low:.1f}, {drop.high:.1f}]"
        rows.setdefault(point.ranking, []).append(cell)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=80).print(table)


if __name__ == "__main__":
    app()
