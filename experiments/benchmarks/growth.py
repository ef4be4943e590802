"""The growth of discovery's cost with prompts, tokens and layers, which should be linear."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib as mpl
import numpy as np

from cna_lens.models import HookedModel
from experiments.benchmarks.timing import Measure, alternate
from experiments.shared.random_models import find_in_halves, random_llama, random_prompts

SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
}
"""The demo model's shape; its weights do not matter here."""

PROMPTS = (50, 100, 200, 400)
TOKENS = (32, 128, 512)
LAYERS = (30, 60)


def growth(repeats: int, out: Path) -> list[Measure]:
    """Seconds against each size, with a plot of all three."""
    thirty, sixty = (_model(layers) for layers in LAYERS)
    turns = max(1, repeats // 2)
    points = {
        "prompts of 32 tokens": _times({n: (thirty, n, 32) for n in PROMPTS}, turns),
        "tokens, 32 prompts": _times({n: (thirty, 32, n) for n in TOKENS}, turns),
        "layers, 100 prompts of 32 tokens": _times(
            {30: (thirty, 100, 32), 60: (sixty, 100, 32)}, turns
        ),
    }
    _plot(points, out / "growth.png")
    return [_measure(axis, seconds) for axis, seconds in points.items()]


def _model(layers: int) -> HookedModel:
    return random_llama(f"random-{layers}-layers", num_hidden_layers=layers, **SHAPE)


def _times(sizes: dict[int, tuple[HookedModel, int, int]], repeats: int) -> dict[int, list[float]]:
    def run(model: HookedModel, n: int, tokens: int) -> None:
        find_in_halves(model, random_prompts(n, tokens, 0, SHAPE["vocab_size"]))

    runs = {str(size): (lambda case=case: run(*case)) for size, case in sizes.items()}
    return {int(size): seconds for size, seconds in alternate(runs, repeats).items()}


def _measure(axis: str, seconds: dict[int, list[float]]) -> Measure:
    """The exponent of growth: 1 is linear, 2 would be quadratic."""
    sizes = np.log([float(size) for size in seconds])
    exponents = [
        float(np.polyfit(sizes, np.log([each[turn] for each in seconds.values()]), 1)[0])
        for turn in range(len(next(iter(seconds.values()))))
    ]
    return Measure(
        name=f"discovery, exponent of growth with {axis}",
        value=statistics.median(exponents),
        low=min(exponents),
        high=max(exponents),
        unit="exponent",
        goal="1 (linear)",
        detail={"median_seconds": {n: statistics.median(each) for n, each in seconds.items()}},
    )


def _plot(points: dict[str, dict[int, list[float]]], path: Path) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(points), figsize=(10, 3.2), layout="constrained")
    for axis, (name, seconds) in zip(axes, points.items(), strict=True):
        sizes = list(seconds)
        medians = [statistics.median(each) for each in seconds.values()]
        axis.plot(sizes, medians, "o-", color="#0072B2", label="measured, median")
        line = [medians[0] * size / sizes[0] for size in sizes]
        axis.plot(sizes, line, "--", color="#666666", label="linear from the first point")
        axis.set_xlabel(name)
        axis.set_ylabel("seconds of discovery")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
