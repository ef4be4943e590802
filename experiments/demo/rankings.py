"""Which ranking finds the neurons that refusals depend on, at equal size?

    python -m experiments.demo.rankings --model demo-refusal

Every ranking scores the neurons on the packaged discovery set; its top 0.1, 0.3 and 1 % are set to
their means over benign prompts, and held-out harmful requests say by how much that lowers the
log-odds of a refusal. The figures go to `experiments/results/rankings_<model>.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from cna_lens import NeuronScores, Selection
from cna_lens.discovery import RandomScores
from cna_lens.evidence import Necessity
from cna_lens.metrics import refusal_log_odds
from cna_lens.results import library_versions

RANKINGS = (
    "contrast",
    "standardized",
    "output_weighted",
    "attribution_patching",
    "relp",
)
FRACTIONS = (0.001, 0.003, 0.01)
SIGNS = ("abs", "positive", "negative")
POSITIONS = ("last_prompt", "all")
RANDOM_SEEDS = (0, 1, 2)

app = typer.Typer()


@app.command()
def main(
    model: Annotated[str, typer.Option(help="A name for load_model.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder of the JSON file.")] = Path(
        "experiments/results"
    ),
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
    scores: dict[str, NeuronScores] = {
        name: cna_lens.score_neurons(
            loaded, discovery.positive, discovery.negative, name, progress=True
        )
        for name in RANKINGS
    }
    for random_seed in RANDOM_SEEDS:
        scores[f"random {random_seed}"] = cna_lens.score_neurons(
            loaded, discovery.positive, discovery.negative, RandomScores(random_seed)
        )
    found: dict[str, dict[str, Any]] = {}
    for positions in POSITIONS:
        for sign in SIGNS:
            if sign != "abs" and positions != "last_prompt":
                continue
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
        name: [share_late(each, size, Selection(universal=universal)) for size in sizes]
        for name, each in scores.items()
    }
    record = {
        "command": " ".join(["python -m experiments.demo.rankings", *sys.argv[1:]]),
        "model": model,
        "weights_sha256": cna_lens.weights_hash(loaded),
        "n_discovery": [len(discovery.positive), len(discovery.negative)],
        "n_prompts": len(held_out),
        "sizes": sizes,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "versions": dict(library_versions()),
        "share_in_last_third": late,
        "necessity": found,
    }
    path = out / f"rankings_{model}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    Console(width=80).print(f"Written to {path}", soft_wrap=True)


def share_late(scores: NeuronScores, size: int, selection: Selection) -> float:
    """The share of a circuit that lies in the last third of the layers."""
    circuit = Selection(k=size, fraction=None, universal=selection.universal).circuit(scores)
    first_late = 2 * scores.layout.n_layers // 3
    return sum(neuron.layer >= first_late for neuron in circuit) / size


def show(drops: Necessity, title: str, sizes: list[int]) -> None:
    """Drops with their intervals, 80 columns wide."""
    table = Table("ranking", *(f"k = {size}" for size in sizes), title=title)
    rows: Mapping[str, list[str]] = {point.ranking: [] for point in drops.points}
    for point in drops.points:
        drop = point.drop
        rows[point.ranking].append(f"{drop.value:.2f} [{drop.low:.1f}, {drop.high:.1f}]")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=80).print(table)


if __name__ == "__main__":
    app()
