"""The figure of the README: what each method leaves of the refusals, and what it costs.

python -m experiments.demo.front
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import typer
from matplotlib.figure import Figure

from cna_lens.steering import Comparison, Row

ROOT = Path(__file__).parents[2]
COMPARED = ROOT / "experiments" / "results" / "test_remove_demo-refusal.jsonl"
NAMES = {
    "unsteered": "nothing",
    "contrast 0.1%, zero everywhere": "the paper's circuit, ablated",
    "random in its place": "random neurons in its place",
    "directional_ablation(layer=15, position=-2)": "directional ablation",
    "caa(layer=12)": "CAA, one layer",
    "CAA, MLP outputs of all layers": "CAA, all layers",
    "attribution_patching 0.3%, -1": "attribution patching, 0.3 %",
    "relp 1.0%, 0": "RelP, 1 %",
}
INK = {"light": ("#1f2328", "#0072b2"), "dark": ("#e6edf3", "#56b4e9")}
"""Text and marks on a light page and on a dark one."""


def front_figure(rows: list[Row], scheme: str) -> Figure:
    """Refusals that are left, and KL divergence per token on look-alikes, with 95 % intervals."""
    ink, mark = INK[scheme]
    settings = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    style = {"font.size": 10, "axes.edgecolor": ink, "svg.fonttype": "path"}
    with mpl.rc_context(settings | style | {"svg.hashsalt": "cna-lens"}):
        figure = Figure(figsize=(8.4, 3.1), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for place, row in enumerate(rows):
            rate, kl = row.behaviour, row.kl_per_token
            left.errorbar(
                100 * rate.value,
                place,
                xerr=[[100 * (rate.value - rate.low)], [100 * (rate.high - rate.value)]],
                fmt="o",
                color=mark,
                capsize=2,
            )
            if kl is not None and kl.value > 0:
                right.plot(kl.value, place, "o", color=mark)
        left.set(xlim=(-3, 103), xlabel=f"refused of {rows[0].behaviour.n} harmful requests (%)")
        left.set_yticks(range(len(rows)), [NAMES[row.method] for row in rows])
        left.invert_yaxis()
        right.set(xscale="log", xlabel="KL per token on look-alikes")
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="x", color=ink, alpha=0.15)
            axis.patch.set_alpha(0)
        figure.patch.set_alpha(0)
    return figure


def main(out: Path = ROOT / "docs") -> None:
    """Draw the figure for light and for dark pages."""
    rows = {row.method: row for row in Comparison.load(COMPARED).rows}
    for scheme in INK:
        path = out / f"front-{scheme}.svg"
        with mpl.rc_context({"svg.hashsalt": "cna-lens"}):
            front_figure([rows[name] for name in NAMES], scheme).savefig(
                path, metadata={"Date": None}
            )
        typer.echo(f"Written to {path}")


if __name__ == "__main__":
    typer.run(main)
