"""The circuits of two factual tasks on models of different families, their place and effect.

    python -m experiments.demo.factual_tasks --model demo --model gemma-3-270m-q4_k_m.gguf

Prompts are plain text, so that base and instruct models read the same; the figures go to
`experiments/results/factual_tasks.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from cna_lens import Circuit, PromptSet, Selection
from cna_lens.metrics import factual_accuracy
from cna_lens.models import HookedModel
from experiments.shared.result_files import (
    RESULTS,
    Folder,
    Permutations,
    Resamples,
    environment,
    write_record,
)

TASKS = ("capitals", "agreement")
FRACTIONS = (0.001, 0.01)
CONTROLS = 3
"""Random circuits of the same layers that are ablated beside each circuit."""

app = typer.Typer()


@app.command()
def main(
    model: Annotated[list[str], typer.Option(help="Names for load_model.")],
    out: Folder = RESULTS,
    seed: Annotated[int, typer.Option(help="Of resamples, shufflings and controls.")] = 0,
    n_resamples: Resamples = 200,
    n_permutations: Permutations = 1000,
) -> None:
    """Circuits of capitals and agreement on each model, one beside the other."""
    models: dict[str, Any] = {}
    for name in model:
        loaded = cna_lens.load_model(name)
        short = Path(name).name
        models[short] = {
            "weights_sha256": cna_lens.weights_hash(loaded),
            "tasks": {
                task: measured(loaded, cna_lens.prompt_set(task), seed, n_resamples, n_permutations)
                for task in TASKS
            },
        }
        show(short, models[short]["tasks"])
    names = " ".join(f"--model {Path(name).name}" for name in model)
    record = {
        "command": f"python -m experiments.demo.factual_tasks {names} --seed {seed}",
        "seed": seed,
        "n_resamples": n_resamples,
        "n_permutations": n_permutations,
        **environment(),
        "models": models,
    }
    write_record(out / "factual_tasks.json", record)


def measured(
    model: HookedModel, task: PromptSet, seed: int, n_resamples: int, n_permutations: int
) -> dict[str, Any]:
    """One task's circuit on one model: its certainty, its place, and the effect of ablating it."""
    universal = cna_lens.universal_neurons(model, chat=False, progress=True)
    selection = Selection(universal=universal)
    positive, negative = (
        cna_lens.collect(model, side, keep="all", chat=False, progress=True)
        for side in (task.positive, task.negative)
    )
    settings: dict[str, Any] = {"seed": seed, "progress": True}
    null = cna_lens.null_distribution(
        positive, negative, selection, n_permutations=n_permutations, **settings
    )
    place = cna_lens.localization(
        positive, negative, selection, n_resamples=n_resamples, **settings
    )
    scores = cna_lens.rank(positive.stats(), negative.stats())
    circuits = [Selection(fraction, universal=universal).circuit(scores) for fraction in FRACTIONS]
    return {
        "n": len(task.positive),
        "n_neurons": scores.layout.n_neurons,
        "layers": scores.layout.n_layers,
        "differ": null.size(),
        "k": len(null.circuit),
        "by_layer": dict(sorted(Counter(neuron.layer for neuron in null.circuit).items())),
        "chance_share": asdict(null.chance_share()),
        "localization": place.record(),
        "accuracy": ablated(model, task, circuits, seed),
    }


def ablated(
    model: HookedModel, task: PromptSet, circuits: Sequence[Circuit], seed: int
) -> dict[str, Any]:
    """How often the right word is likelier: unsteered, and with a circuit or a control ablated."""
    before = factual_accuracy(model, task)
    found = {"unsteered": _accuracy(before, before)}
    for circuit in circuits:
        kinds = {f"{len(circuit)}": circuit} | {
            f"{len(circuit)} random, seed {each}": cna_lens.matched_random(circuit, each)
            for each in range(seed, seed + CONTROLS)
        }
        for kind, neurons in kinds.items():
            with cna_lens.steer(model, neurons, 0.0):
                found[kind] = _accuracy(before, factual_accuracy(model, task))
    return found


def _accuracy(before: list[bool], after: list[bool]) -> dict[str, Any]:
    return asdict(cna_lens.wilson(after)) | {"p": cna_lens.mcnemar(before, after)}


def show(model: str, tasks: Mapping[str, Any]) -> None:
    """The figures of one model, 80 columns wide."""
    table = Table("", *tasks, title=model)
    every = list(tasks.values())
    table.add_row("prompts", *(f"{each['n']} + {each['n']}" for each in every))
    table.add_row("neurons that differ, 5 % false", *(str(each["differ"]) for each in every))
    table.add_row("circuit", *(f"{each['k']} of {each['n_neurons']}" for each in every))
    shares = zip(*(each["localization"]["shares"] for each in every), strict=True)
    for row in shares:
        region = row[0]["region"] + (", scaled" if row[0]["scaled"] else "")
        table.add_row(region, *(_place(share) for share in row))
    for kinds in zip(*(each["accuracy"].items() for each in every), strict=True):
        rates = (f"{rate['value']:.2f} (p {rate['p']:.2g})" for _, rate in kinds)
        table.add_row(f"right, {kinds[0][0]}", *rates)
    Console(width=80).print(table)


def _place(share: Mapping[str, Any]) -> str:
    value, by_chance = share["share"], share["shuffled"]["value"]
    return (
        f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}], shuffled {by_chance:.2f}"
    )


if __name__ == "__main__":
    app()
