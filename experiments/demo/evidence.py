"""How sure one can be of a demo model's circuits.

    python -m experiments.demo.evidence --model demo-refusal

Each prompt is collected once, and its activations are resampled; the figures go to
`experiments/results/evidence_<model>.json`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from cna_lens import Circuit, Estimate, PromptActivations, Selection
from cna_lens.evidence import Localization, NullDistribution, Stability, Transfer
from experiments.shared.result_files import (
    RESULTS,
    Folder,
    Model,
    Permutations,
    Resamples,
    command,
    environment,
    write_record,
)
from experiments.study.paper import TASKS

DISCOVERY_PAIRS = 25
"""Number of pairs in each compared set, as many as the translated sets have."""

app = typer.Typer()


@app.command()
def main(
    model: Model = "demo",
    out: Folder = RESULTS,
    seed: Annotated[int, typer.Option(help="Of resamples and shufflings.")] = 0,
    n_resamples: Resamples = 200,
    n_permutations: Permutations = 1000,
) -> None:
    """Null distribution, stability, place, signs and transfer of three circuits."""
    loaded = cna_lens.load_model(model)
    universal = {
        chat: cna_lens.universal_neurons(loaded, chat="auto" if chat else False, progress=True)
        for chat in (True, False)
    }
    settings: dict[str, Any] = {"seed": seed, "progress": True}
    tasks: dict[str, Any] = {}
    for task, chat in TASKS.items():
        prompts = cna_lens.prompt_set(task)
        selection = Selection(universal=universal[chat])
        positive, negative = (
            cna_lens.collect(
                loaded, side, keep="all", chat="auto" if chat else False, progress=True
            )
            for side in (prompts.positive, prompts.negative)
        )
        sides = (positive, negative, selection)
        null, pairs = (
            cna_lens.null_distribution(
                *sides, paired=paired, n_permutations=n_permutations, **settings
            )
            for paired in (False, True)
        )
        stable = cna_lens.stability(*sides, n_resamples=n_resamples, **settings)
        place = cna_lens.localization(*sides, n_resamples=n_resamples, **settings)
        tasks[task] = {
            "null": null.record(),
            "null_paired": pairs.record(),
            "stability": stable.record(),
            "localization": place.record(),
            "signs": signs(*sides, null.circuit),
        }
        show(task, null, pairs, stable, place, tasks[task]["signs"])
    moved = transfer_of_refusal(loaded, Selection(universal=universal[True]))
    show_transfer(moved)
    record = {
        "command": command("experiments.demo.evidence"),
        "model": model,
        "weights_sha256": cna_lens.weights_hash(loaded),
        "seed": seed,
        "n_resamples": n_resamples,
        "n_permutations": n_permutations,
        "n": {task: len(cna_lens.prompt_set(task).positive) for task in TASKS},
        **environment(),
        "tasks": tasks,
        "transfer": moved.record(),
    }
    write_record(out / f"evidence_{model}.json", record)


def signs(
    positive: PromptActivations,
    negative: PromptActivations,
    selection: Selection,
    circuit: Circuit,
) -> dict[str, Any]:
    """How the circuit by magnitude divides into neurons that are more and less active."""
    scores = cna_lens.rank(positive.stats(), negative.stats())
    apart = {
        sign: Selection(sign=sign, universal=selection.universal).circuit(scores)
        for sign in ("positive", "negative")
    }
    return {
        "positive": sum(score > 0 for score in circuit.scores),
        "negative": sum(score < 0 for score in circuit.scores),
        "jaccard_with_abs": {
            sign: cna_lens.jaccard(circuit, other) for sign, other in apart.items()
        },
        "strongest": {sign: other.scores[0] for sign, other in apart.items()},
    }


def transfer_of_refusal(model: Any, selection: Selection) -> Transfer:
    """Circuits of 25 pairs each: as packaged, drawn by seeds, reworded, and in two languages."""
    every = cna_lens.prompt_set("refusal")
    pairs = list(zip(every.positive, every.negative, strict=True))
    sets: dict[str, Sequence[tuple[str, str]]] = {"english": pairs[::4]}
    others = [pair for place, pair in enumerate(pairs) if place % 4]
    for seed in (0, 1):
        sets[f"seed {seed}"] = random.Random(seed).sample(others, DISCOVERY_PAIRS)
    for name in ("reworded", "german", "french"):
        chosen = cna_lens.prompt_set(f"refusal_{name}")
        sets[name] = list(zip(chosen.positive, chosen.negative, strict=True))
    return cna_lens.transfer(
        {name: _circuit(model, pairs, selection) for name, pairs in sets.items()}
    )


def _circuit(model: Any, pairs: Sequence[tuple[str, str]], selection: Selection) -> Circuit:
    positive, negative = (
        cna_lens.collect(model, [pair[side] for pair in pairs], progress=True) for side in (0, 1)
    )
    return selection.circuit(cna_lens.rank(positive, negative))


def show(
    task: str,
    null: NullDistribution,
    pairs: NullDistribution,
    stable: Stability,
    place: Localization,
    split: Mapping[str, Any],
) -> None:
    """One task's figures, 80 columns wide."""
    table = Table("question", "answer", title=f"{task}: {len(null.circuit)} neurons")
    prompts = f"{null.n_positive} + {null.n_negative} prompts"
    table.add_row("neurons that differ, 5 % false ones", f"{null.size()} ({prompts})")
    table.add_row("  labels swapped within pairs", str(pairs.size()))
    table.add_row("  no false one, 95 %", str(null.size(control="familywise")))
    table.add_row("  of the circuit's", f"{null.found_in_circuit(0.05, 'familywise')}")
    table.add_row("share of the circuit by chance", f"{null.chance_share()}")
    table.add_row("Jaccard, bootstrap with all prompts", f"{stable.jaccard}")
    for size in stable.sizes:
        name = f"  two sets of {size.size} + {size.size}"
        if size.disjoint is not None:
            table.add_row(f"{name}, disjoint", f"{size.disjoint}")
        table.add_row(f"{name}, with replacement", f"{size.between}")
    core = f"{len(stable.core())} always, {len(stable.core(0.9))} in 90 %"
    table.add_row("core", core)
    for share in place.shares:
        name = f"{share.region}{', scaled' if share.scaled else ''}"
        table.add_row(name, f"{_two_digits(share.share)}, shuffled {share.shuffled.value:.2f}")
    table.add_row("more active, less active", f"{split['positive']}, {split['negative']}")
    Console(width=80).print(table)


def _two_digits(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def show_transfer(moved: Transfer) -> None:
    """The Jaccard matrix, and what random circuits of the same layers share."""
    square = moved.matrix()
    table = Table("Jaccard", *square.columns, title="refusal: 25 + 25 prompts each")
    for name, row in square.iterrows():
        table.add_row(str(name), *(f"{value:.2f}" for value in row))
    console = Console(width=80)
    console.print(table)
    by_layer = [overlap.random_by_layer for overlap in moved.overlaps]
    console.print(f"Random circuits of the same layers: {min(by_layer):.3f} to {max(by_layer):.3f}")


if __name__ == "__main__":
    app()
