"""What carries the refusals of the demo model: few MLP neurons, many, or attention?

    python -m experiments.demo.carriers

`demo-refusal` is the model `demo` with an adapter in all its layers. Here parts of it are set back
to `demo`'s weights, or MLP neurons are ablated, and the rest stays. The figures go to
`experiments/results/carriers.json`: refusals by words, the log-odds of a refusal's first token, the
KL divergence along its own answers to benign prompts, and the quality of the answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import cna_lens
from cna_lens import ActivationStats, Circuit, Layout, LearnedMask, NeuronScores, Rate, steer
from cna_lens.metrics import evaluate, kl_per_token, refusal_log_odds
from cna_lens.models import HookedModel
from experiments.audit.weight_edits import Change, edited, weights_of
from experiments.shared.result_files import RESULTS, Folder, command, environment, write_record

SHARES = (0.01, 0.1, 0.5)
"""Of the MLP neurons: those that the adapter changed most are set back."""
MASKED = (0.003, 0.01)
"""Of the MLP neurons: the first by a learned mask are set to 0."""
N_KL = 20
"""Benign prompts along whose answers the KL is taken."""
PART = re.compile(r"model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)_proj\.weight")

Ways = Mapping[str, Callable[[], AbstractContextManager[Any]]]
app = typer.Typer()


@app.command()
def main(
    out: Folder = RESULTS,
    n_prompts: Annotated[int, typer.Option(help="Of each kind.", min=2, max=60)] = 60,
    max_new_tokens: Annotated[int, typer.Option(help="Of each answer.", min=8)] = 32,
    checkpoints: Annotated[
        Path | None, typer.Option(help="Folder from which an interrupted mask goes on.")
    ] = None,
) -> None:
    """Set parts of the model back, ablate neurons, and measure what is left of the refusals."""
    model, base = cna_lens.load_model("demo-refusal"), cna_lens.load_model("demo")
    discovery = cna_lens.prompt_set("refusal")
    means = cna_lens.collect(model, discovery.negative, progress=True)
    mask = LearnedMask(checkpoints=checkpoints)
    scores = cna_lens.score_neurons(
        model, discovery.positive, discovery.negative, mask, progress=True
    )
    tried = {**set_back(model, base, means.layout), **ablated(model, means, scores)}
    asked = cna_lens.prompt_set("refusal_evaluation")
    harmful, benign = asked.positive[:n_prompts], asked.negative[:N_KL]
    answers = cna_lens.generate(model, benign, max_new_tokens=max_new_tokens)
    rows: dict[str, Any] = {}
    for name, steering in tried.items():
        with steering():
            found = evaluate(model, harmful, max_new_tokens=max_new_tokens, progress=True)
            odds = fmean(refusal_log_odds(model, harmful))
        divergences = kl_per_token(model, steering, benign, answers)
        rows[name] = {
            "refused": asdict(found.refusal_rate),
            "log_odds": odds,
            "kl": fmean(value for value in divergences if value is not None),
            "quality": asdict(found.quality) if found.quality else None,
        }
        show(rows)
    record = {
        "command": command("experiments.demo.carriers"),
        "weights_sha256": {
            "demo-refusal": cna_lens.weights_hash(model),
            "demo": cna_lens.weights_hash(base),
        },
        "seed": 0,
        "rows": rows,
        **environment(),
    }
    write_record(out / "carriers.json", record)


def set_back(model: HookedModel, base: HookedModel, layout: Layout) -> Ways:
    """The model with parts of its weights from another, by the part's name."""
    own, others = weights_of(model), weights_of(base)
    order = changes(own, others).argsort(descending=True)

    def back(which: Callable[[str], bool]) -> Change:
        return lambda name, _: others[name] if which(name) else None

    ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "nothing": nullcontext,
        "all weights set back": lambda: edited(model, back(lambda _: True)),
        "attention set back": lambda: edited(model, back(lambda name: ".self_attn." in name)),
        "MLPs set back": lambda: edited(model, back(lambda name: ".mlp." in name)),
    }
    for share in SHARES:
        places = order[: round(share * len(order))]
        neurons = [layout.neuron(place) for place in sorted(places.tolist())]
        change = neurons_of(Circuit(tuple(neurons), (1.0,) * len(neurons), layout), others)
        ways[f"{share:.0%} of MLP neurons set back"] = lambda change=change: edited(model, change)
    return ways


def changes(own: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Tensor:
    """How far each MLP neuron's weights are from another model's: the norm of all differences."""
    squares: dict[int, Tensor] = {}
    for name, weight in own.items():
        part = PART.fullmatch(name)
        if part and part[2] == "mlp":
            apart = (weight.detach() - others[name].detach()).double().square()
            layer = int(part[1])
            squares[layer] = squares.get(layer, 0) + apart.sum(0 if part[3] == "down" else 1)
    return torch.cat([squares[layer] for layer in sorted(squares)]).sqrt()


def neurons_of(circuit: Circuit, others: Mapping[str, Tensor]) -> Change:
    """Take the weights of a circuit's neurons, and no others, from another model."""
    by_layer = {layer: list(indices) for layer, indices in circuit.by_layer().items()}

    def change(name: str, weight: Tensor) -> Tensor | None:
        part = PART.fullmatch(name)
        if not part or part[2] != "mlp" or int(part[1]) not in by_layer:
            return None
        indices, changed = by_layer[int(part[1])], weight.clone()
        if part[3] == "down":
            changed[:, indices] = others[name][:, indices]
        else:
            changed[indices] = others[name][indices]
        return changed

    return change


def ablated(model: HookedModel, means: ActivationStats, scores: NeuronScores) -> Ways:
    """The model with all MLP neurons at their benign means, and with the first few at 0."""
    every = tuple(means.layout.neurons())
    all_neurons = Circuit(every, (1.0,) * len(every), means.layout)
    ways: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "all MLP neurons at benign means, last prompt token": lambda: steer(
            model, all_neurons, values=means, positions="last_prompt"
        )
    }
    for share in MASKED:
        circuit = scores.top(fraction=share, sign="positive")
        name = f"first {share:.1%} of a learned mask at 0"
        ways[name] = lambda circuit=circuit: steer(model, circuit, 0.0)
    return ways


def show(rows: Mapping[str, Any]) -> None:
    """A row for each way, 80 columns wide."""
    table = Table("of demo-refusal", "refused", "log-odds", "KL", "quality")
    for name, row in rows.items():
        table.add_row(
            name,
            str(Rate(**row["refused"])),
            f"{row['log_odds']:.1f}",
            f"{row['kl']:.2f}",
            f"{row['quality']['value']:.2f}" if row["quality"] else "-",
        )
    Console(width=80).print(table)


if __name__ == "__main__":
    app()
