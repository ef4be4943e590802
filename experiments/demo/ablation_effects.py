"""How well rankings predict the effect of ablating one neuron, and gradients that of ablating many.

    python -m experiments.demo.ablation_effects

Draws neurons at random, sets each to its mean over the negative prompts at the last prompt token,
measures by how much that lowers the refusal log-odds of the positive prompts, and correlates this
true effect with the neuron's score in each ranking. Then it does the same with groups of neurons,
whose scores it sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from scipy.stats import bootstrap, pearsonr, spearmanr
from torch import Tensor
from tqdm.auto import tqdm

import cna_lens
from cna_lens.metrics import REFUSAL_OPENINGS, first_tokens, log_odds
from cna_lens.models import HookedModel, SharedPrefix, encode, forward_logits, hook_name, model_name
from experiments.shared.rankings import RANKINGS, scored
from experiments.shared.result_files import (
    RESULTS,
    Folder,
    Model,
    command,
    environment,
    write_record,
)

AT_ONCE = 128
SIZES = (1, 10, 46, 138, 461)
TOP = 0.02
BY_GRADIENT = ("attribution_patching", "relp")
Statistic = Callable[[np.ndarray, np.ndarray], float]


def ablation_effects(
    model: HookedModel,
    prompts: Sequence[str],
    groups: Sequence[Sequence[cna_lens.Neuron]],
    means: Tensor,
    layout: cna_lens.Layout,
) -> np.ndarray:
    """By how much setting a group's neurons to their means at the last token lowers the log-odds.

    The tokens before the last one do not change, so that they are computed once for each prompt,
    and many groups are ablated side by side in a batch of single tokens.

    Args:
        model: a bridge.
        prompts: the prompts over which effects are averaged.
        groups: the neurons that are set together.
        means: the value that each neuron of the model is set to.
        layout: the model's neurons.

    Returns:
        One effect a group: log-odds as they are minus those after the ablation, in nats.
    """
    refusing = first_tokens(model, REFUSAL_OPENINGS)
    effects = np.zeros(len(groups))
    for ids in tqdm(encode(model, prompts).ids, desc="ablating", unit="prompt"):
        before = SharedPrefix.of(model, [ids, ids], len(ids) - 1)
        last = torch.tensor([ids[-1]])

        def after(batch: Sequence[Sequence[cna_lens.Neuron]]) -> Tensor:
            hooks = [
                (hook_name(layer), _set_rows(batch, layer, means, layout))
                for layer in sorted({neuron.layer for group in batch for neuron in group})
            ]
            rows = max(1, len(batch))
            mask = torch.ones((rows, len(ids)), dtype=torch.long)  # noqa: B023
            with torch.no_grad(), model.hooks(fwd_hooks=hooks):
                logits = forward_logits(
                    model,
                    last.expand(rows, 1),  # noqa: B023
                    mask,
                    before.read_only(),  # noqa: B023
                    first=0,
                )
            return log_odds(logits[:, 0].double(), refusing)

        untouched = float(after([])[0])
        for start in range(0, len(groups), AT_ONCE):
            batch = groups[start : start + AT_ONCE]
            effects[start : start + len(batch)] += (untouched - after(batch)).numpy()
    return effects / len(prompts)


def _set_rows(
    batch: Sequence[Sequence[cna_lens.Neuron]], layer: int, means: Tensor, layout: cna_lens.Layout
) -> Callable[..., Tensor]:
    mine = [
        (row, neuron)
        for row, group in enumerate(batch)
        for neuron in group
        if neuron.layer == layer
    ]
    rows = [row for row, _ in mine]
    indices = [neuron.index for _, neuron in mine]
    values = means[layout.flat_all([neuron for _, neuron in mine])]

    def change(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        changed = activation.clone()
        changed[rows, -1, indices] = values.to(activation)
        return changed

    return change


def correlation(
    statistic: Statistic, scores: np.ndarray, effects: np.ndarray, seed: int
) -> dict[str, float]:
    """A correlation over neurons with its 95 % percentile bootstrap interval."""
    interval = bootstrap(
        (scores, effects),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return {
        "value": statistic(scores, effects),
        "low": float(interval.low),
        "high": float(interval.high),
    }


def group_effects(
    model: HookedModel,
    prompts: Sequence[str],
    scores: cna_lens.NeuronScores,
    means: Tensor,
    n_groups: int,
    seed: int,
) -> list[dict[str, Any]]:
    """How a group's summed scores agree with the effect of ablating it, by size and by draw.

    Groups are drawn from all neurons, and from the `TOP` with the highest scores of this ranking.
    The neurons with the highest scores of all are one more group of each size. With one seed, the
    groups that are drawn from all neurons are the same for every ranking.

    Returns:
        One row for each draw and size, with Pearson's correlation over groups, the mean of the
        summed scores and the mean effect, in nats.
    """
    draw = np.random.default_rng(seed)
    layout = scores.layout
    order = scores.values.argsort(descending=True).numpy()
    pools = {"all": np.arange(layout.n_neurons), "top": order[: round(TOP * layout.n_neurons)]}
    drawn = {
        (name, size): [draw.choice(pool, size, replace=False) for _ in range(n_groups)]
        for name, pool in pools.items()
        for size in SIZES
    }
    groups = [
        [layout.neuron(int(place)) for place in places]
        for each in drawn.values()
        for places in each
    ]
    effects = ablation_effects(model, prompts, groups, means, layout).reshape(-1, n_groups)
    found: list[dict[str, Any]] = []
    for ((name, size), each), effect in zip(drawn.items(), effects, strict=True):
        sums = scores.values.numpy()[np.stack(each)].sum(1)
        found.append(
            {
                "drawn_from": name,
                "k": size,
                "pearson": correlation(_pearson, sums, effect, seed),
                "mean_sum": float(sums.mean()),
                "mean_effect": float(effect.mean()),
            }
        )
    first = [order[:size] for size in SIZES]
    groups = [[layout.neuron(int(place)) for place in places] for places in first]
    effects = ablation_effects(model, prompts, groups, means, layout)
    for size, places, effect in zip(SIZES, first, effects, strict=True):
        sums = float(scores.values.numpy()[places].sum())
        row = {"pearson": None, "mean_sum": sums, "mean_effect": float(effect)}
        found.append({"drawn_from": "first", "k": size, **row})
    return found


def _pearson(scores: np.ndarray, effects: np.ndarray) -> float:
    return float(pearsonr(scores, effects).statistic)


def _spearman(scores: np.ndarray, effects: np.ndarray) -> float:
    return float(spearmanr(scores, effects).statistic)


def main(
    model: Model = "demo",
    prompts: Annotated[int, typer.Option(help="Prompts from each set, drawn by seed.")] = 16,
    neurons: Annotated[int, typer.Option(help="Neurons, drawn by seed.")] = 500,
    groups: Annotated[int, typer.Option(help="Groups of each size, drawn by seed.")] = 100,
    seed: Annotated[int, typer.Option(help="For prompts, neurons, groups and resampling.")] = 0,
    out: Folder = RESULTS,
) -> None:
    """Correlate rankings with the true effect of mean-ablating single neurons."""
    loaded = cna_lens.load_model(model)
    chosen = cna_lens.prompt_set("refusal")
    draw = np.random.default_rng(seed)
    rows = draw.choice(len(chosen.positive), prompts, replace=False)
    positive = [chosen.positive[row] for row in rows]
    negative = [chosen.negative[row] for row in rows]
    scores = scored(loaded, positive, negative, (*RANKINGS, "random"))
    layout = scores["contrast"].layout
    flat = draw.choice(layout.n_neurons, neurons, replace=False)
    sampled = [[layout.neuron(int(place))] for place in flat]
    means = cna_lens.collect(loaded, negative).mean
    effects = ablation_effects(loaded, positive, sampled, means, layout)
    of_magnitudes: dict[str, Any] = {}
    signed: dict[str, Any] = {}
    for name, found in scores.items():
        values = found.values[torch.as_tensor(flat)].numpy()
        signed[name] = {
            "pearson": correlation(_pearson, values, effects, seed),
            "spearman": correlation(_spearman, values, effects, seed),
        }
        of_magnitudes[name] = {
            "spearman": correlation(_spearman, np.abs(values), np.abs(effects), seed)
        }
    of_groups = {
        name: group_effects(loaded, positive, scores[name], means, groups, seed)
        for name in BY_GRADIENT
    }
    record = {
        "question": "correlation, over neurons, of a ranking's score with the true effect of mean "
        "ablation at the last prompt token on the refusal log-odds; and, over groups of neurons, "
        "of the sum of their scores with the effect of ablating them together",
        "command": command("experiments.demo.ablation_effects"),
        "model": model_name(loaded),
        "weights_sha256": cna_lens.weights_hash(loaded),
        "seed": seed,
        "n_neurons": neurons,
        "n_prompts": prompts,
        "prompt_set": chosen.name,
        "interval": "95 % percentile bootstrap over neurons, 2000 resamples",
        "effect": {
            "unit": "nats",
            "mean_magnitude": float(np.abs(effects).mean()),
            "largest_magnitude": float(np.abs(effects).max()),
        },
        "signed": signed,
        "magnitudes": of_magnitudes,
        "groups": {
            "n_groups": groups,
            "top": TOP,
            "interval": "95 % percentile bootstrap over groups, 2000 resamples",
            **of_groups,
        },
        "versions": environment()["versions"],
    }
    for name, found in signed.items():
        shown = (
            f"{kind.capitalize()} {each['value']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]"
            for kind, each in found.items()
        )
        typer.echo(f"{name:22} {'  '.join(shown)}")
    for name, rows_of in of_groups.items():
        for row in rows_of:
            typer.echo(
                f"{name:22} {row['k']:4} of {row['drawn_from']}: "
                f"r {row['pearson']['value'] if row['pearson'] else np.nan:+.3f}, "
                f"sum {row['mean_sum']:+.3f}, effect {row['mean_effect']:+.3f}"
            )
    write_record(out / "ablation_effects.json", record)


if __name__ == "__main__":
    typer.run(main)
