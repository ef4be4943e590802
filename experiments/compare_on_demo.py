"""Do the better rankings take refusals away, and what does it cost?

    python -m experiments.compare_on_demo --model demo-refusal

Circuits of the packaged discovery set are ablated while the held-out requests are answered; labels,
scores and hashes go to `experiments/results/comparison_<model>.jsonl`, from which an interrupted
run goes on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from cna_lens import Circuit, Comparison, Estimate, PromptSet, Selection, SteeringMethod
from cna_lens.rankings import Ranking
from cna_lens.sites import HookedModel

app = typer.Typer()


@app.command()
def main(
    model: Annotated[str, typer.Option(help="A name for load_model.")] = "demo-refusal",
    out: Annotated[Path, typer.Option(help="Folder of the file.")] = Path("experiments/results"),
    n_prompts: Annotated[int, typer.Option(help="Of each kind.", min=2, max=60)] = 60,
    max_new_tokens: Annotated[int, typer.Option(min=8)] = 32,
) -> None:
    """Refusals, look-alikes refused, quality and KL per token, beside the unsteered model."""
    loaded = cna_lens.load_model(model)
    evaluation = cna_lens.prompt_set("refusal_evaluation")
    prompts = PromptSet(
        evaluation.name,
        evaluation.purpose,
        evaluation.positive[:n_prompts],
        evaluation.negative[:n_prompts],
    )
    comparison = cna_lens.compare(
        loaded,
        steering_methods(loaded),
        prompts,
        strengths=[1.0],
        max_new_tokens=max_new_tokens,
        path=out / f"comparison_{model}.jsonl",
    )
    show(comparison, f"{model}, n = {n_prompts} + {n_prompts}")


def steering_methods(model: HookedModel) -> list[SteeringMethod]:
    """The paper's ablation, and means set at the last prompt token only."""
    discovery = cna_lens.prompt_set("refusal")
    means = cna_lens.collect(model, discovery.negative, progress=True)
    universal = cna_lens.universal_neurons(model, progress=True)

    def circuit(ranking: str | Ranking, fraction: float, selection: Selection) -> Circuit:
        scores = cna_lens.score_neurons(
            model, discovery.positive, discovery.negative, ranking, progress=True
        )
        return replace(selection, fraction=fraction, universal=universal).circuit(scores)

    def at_last_token(chosen: Circuit, name: str) -> SteeringMethod:
        method = cna_lens.mean_ablation(chosen, means, positions="last_prompt")
        return replace(method, name=name)

    paper = circuit("contrast", 0.001, Selection())
    relevant = circuit("relp", 0.01, Selection(sign="positive"))
    return [
        cna_lens.NeuronScaling(paper, name="contrast 0.1 %, zero everywhere"),
        at_last_token(circuit("contrast", 0.01, Selection()), "contrast 1 %, mean at last"),
        at_last_token(relevant, "RelP 1 %, mean at last"),
        at_last_token(cna_lens.matched_random(relevant), "random 1 %, mean at last"),
    ]


def show(comparison: Comparison, title: str) -> None:
    """A row for each method, 80 columns wide."""
    table = Table("method", "refused", "look-alikes", "p", "quality", "KL", title=title)
    for row in comparison.rows:
        table.add_row(
            row.method,
            f"{100 * row.behaviour.value:.0f} %",
            f"{100 * row.elsewhere.value:.0f} %",
            f"{row.p_value:.1g}",
            _mean(row.quality),
            _mean(row.kl_per_token),
        )
    Console(width=80).print(table)


def _mean(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.3f}"


if __name__ == "__main__":
    app()
