"""Do the better rankings take refusals away, and what does it cost?

    python -m experiments.compare_on_demo --model demo-refusal

Circuits and vectors of the packaged discovery set steer the model while held-out requests are
answered. Methods that act at one layer are given the layer, and the token they are read at, that
lowers the log-odds of a refusal most on a fifth of the discovery set, among those that leave benign
prompts as they are. Labels, scores and hashes go to `experiments/results/comparison_<model>.jsonl`,
from which an interrupted run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from cna_lens import Circuit, Comparison, Estimate, PromptSet, Selection, SteeringMethod
from cna_lens.baselines import caa_candidates, choose, directional_ablation_candidates
from cna_lens.metrics import kl_per_token, refusal_log_odds
from cna_lens.rankings import Ranking
from cna_lens.sites import HookedModel

VALIDATION_EVERY = 5
"""Every fifth pair of the discovery set is held back, to choose layers on."""

MAX_KL = 0.1
"""Nats per token on benign prompts: what moves them more is not chosen."""

READ_AT = (-1, -2, -4)
"""The tokens behind the request, in which a direction is looked for."""

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
        [*circuit_methods(loaded), *vector_methods(loaded)],
        prompts,
        strengths=[1.0],
        max_new_tokens=max_new_tokens,
        path=out / f"comparison_{model}.jsonl",
    )
    show(comparison, f"{model}, n = {n_prompts} + {n_prompts}")


def circuit_methods(model: HookedModel) -> list[SteeringMethod]:
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


def vector_methods(model: HookedModel) -> list[SteeringMethod]:
    """CAA as in the paper and as in its source, and directional ablation."""
    discovery = cna_lens.prompt_set("refusal")
    pairs = list(zip(discovery.positive, discovery.negative, strict=True))
    held_back = pairs[::VALIDATION_EVERY]
    positive, negative = zip(*(pair for pair in pairs if pair not in held_back), strict=True)
    harmful, benign = zip(*held_back, strict=True)

    def chosen(candidates: Sequence[SteeringMethod]) -> SteeringMethod:
        sparing = [method for method in candidates if _mean_kl(model, method, benign) <= MAX_KL]
        return choose(model, sparing, refusal_log_odds, harmful, progress=True).best

    early = range(1, math.floor(0.8 * model.cfg.n_layers))
    return [
        replace(cna_lens.caa(model, positive, negative), name="CAA, MLP outputs of all layers"),
        chosen(caa_candidates(model, positive, negative)),
        chosen(
            directional_ablation_candidates(
                model, positive, negative, layers=early, read_at=READ_AT
            )
        ),
    ]


def _mean_kl(model: HookedModel, method: SteeringMethod, prompts: Sequence[str]) -> float:
    divergences = kl_per_token(model, lambda: method.at(model), prompts)
    return math.fsum(each for each in divergences if each is not None) / len(prompts)


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
