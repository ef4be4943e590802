"""The command `bench show`: one planted model, its neurons, and those that rankings choose."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from cna_lens.cli.options import quiet_loading
from cna_lens.cli.render import console, progress_console, ranking_cell, ranking_table
from cna_lens.discovery.rankings.protocol import Ranking
from cna_lens.errors import InputError
from cna_lens.evidence.known_truth import recall, recovery
from cna_lens.evidence.league import Effect
from cna_lens.evidence.planted_model import PlantedModel
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.loading.planted import planting
from cna_lens.report.pictures import can_draw
from cna_lens.results.files import json_text, write_atomically
from cna_lens.results.scores import NeuronScores
from cna_lens.results.statistics import Rate, wilson

SIZES = (1, 10)
"""Multiples of the true k at which planted neurons are counted."""
NOTES = {
    "in": "how many of the planted neurons are among the first so many",
    "AUROC": "area under the curve of planted against other neurons; chance is .5",
    "contrast": "the paper's ranking: difference of mean activations",
    "squared_attribution": "squares of activation times gradient, over all tokens",
    "learned_mask": "the ranking named best: neurons that end the behaviour together",
    "random": "scores at random",
    "shown": "answers that still show the behaviour with the first k set to 0, with the 95 % "
    "Wilson interval",
    "KL": "change of answers to other prompts, in nats per token",
}


def run(
    model: str,
    out: Path,
    device: str | None = None,
    *,
    rankings: Sequence[Ranking],
    verbose: bool = True,
) -> dict[str, Any]:
    """Rank a planted model's neurons, ablate the first k, and print both beside the truth.

    Args:
        model: the name of a planted model.
        out: folder for the record and the figure, which have the model's name.
        device: as for `load_model`.
        rankings: the rankings.
        verbose: print the result.

    Raises:
        InputError: there is no such model, nothing is planted in it, or a ranking is named twice.
    """
    begun = time.perf_counter()
    if planting(model).behaviour is None:
        raise InputError(f"nothing is planted in {model}; name a model with a behaviour")
    names = [ranking.name for ranking in rankings]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{twice[0]} is named twice; name each ranking once")
    quiet_loading()
    with progress_console.status("loading") as status:
        planted = PlantedModel.load(model, device)
        scores, rows = _measured(planted, rankings, status.update)
    record = {
        "model": model,
        "weights_sha256": weights_hash(planted.model),
        "behaviour": planted.behaviour.description,
        "k": len(planted.truth),
        "n_neurons": planted.truth.layout.n_neurons,
        "rows": rows,
    }
    files = out / model.rpartition("/")[2]
    text = json_text(record, indent=1, sort_keys=False)
    write_atomically(files.with_suffix(".json"), text + "\n")
    if can_draw():
        from cna_lens import viz

        viz.recall(scores, planted.truth).save(files)
    if verbose:
        _print(planted, rows, files, time.perf_counter() - begun)
    return record


def _measured(
    planted: PlantedModel, rankings: Sequence[Ranking], said: Callable[[str], None]
) -> tuple[dict[str, NeuronScores], list[dict[str, Any]]]:
    truth, k, n = planted.truth, len(planted.truth), planted.truth.layout.n_neurons
    said("without ablation")
    rows = [_row("no neuron", planted.before)]
    said("the planted neurons")
    rows.append(_row("the planted ones", planted.oracle) | {"found": [k, k], "auroc": 1.0})
    scores: dict[str, NeuronScores] = {}
    for ranking in rankings:
        name = ranking.name
        said(name)
        scores[name] = planted.scores(ranking)
        effect = planted.effect(planted.first(scores[name]))
        found = recall(scores[name], truth)
        rows.append(
            _row(name, effect)
            | {
                "found": [round(k * float(found[min(size * k, n) - 1]), 2) for size in SIZES],
                "auroc": recovery(scores[name], truth).overall.auroc,
            }
        )
    return scores, rows


def _row(name: str, effect: Effect) -> dict[str, Any]:
    return {"ablated": name, "shown": asdict(wilson(list(effect.shown))), "kl": effect.kl}


def _print(
    planted: PlantedModel, rows: Sequence[Mapping[str, Any]], files: Path, seconds: float
) -> None:
    k, n = len(planted.truth), planted.truth.layout.n_neurons
    console.print(
        f"{planted.name} {planted.behaviour.description}. The behaviour was trained into {k} of "
        f"{n:,} MLP neurons, and which ones is known.\n",
        highlight=False,
        markup=False,
    )
    title = f"Of {k} planted neurons, and with the first {k} at 0"
    columns = *(f"in {size * k}" for size in SIZES), "AUROC", "shown", "KL"
    table = ranking_table(title, "first neurons of", columns)
    for row in rows:
        rate = Rate(**row["shown"])
        table.add_row(
            ranking_cell(row["ablated"]),
            *(f"{found:g}" for found in row.get("found", [])),
            *["-"] * (len(SIZES) - len(row.get("found", []))),
            f"{row['auroc']:.2f}" if "auroc" in row else "-",
            f"{rate.value:.0%} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]",
            f"{row['kl']:.2f}",
        )
    console.print(table)
    grid = Table.grid(padding=(0, 2))
    names = {row["ablated"] for row in rows}
    for word, meaning in NOTES.items():
        if word in names or word in ("in", "AUROC", "shown", "KL"):
            grid.add_row(word, meaning, style="dim")
    console.print(grid)
    if can_draw():
        typer.echo(f"\nPlanted neurons among the first k:\n{files.with_suffix('.svg')}")
    else:
        typer.echo("\nNo figure was drawn: install cna-lens[viz].")
    typer.echo("All models and rankings: cna-lens bench rankings")
    console.print(
        f"\n{len(planted.behaviour.evaluation.positive)} prompts; {seconds:.0f} s",
        style="dim",
        highlight=False,
    )
