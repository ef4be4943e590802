"""Evidence on a circuit: stability, overlap, shuffled labels, necessity."""

from __future__ import annotations

from typing import Any

import numpy as np

from cna_lens.errors import InputError
from cna_lens.evidence.curves import NullCurves, StabilityCurves
from cna_lens.evidence.faithfulness import Necessity
from cna_lens.evidence.null import NullDistribution
from cna_lens.evidence.other_prompts import Stability
from cna_lens.evidence.overlap import Transfer
from cna_lens.viz.figures.style import (
    COLOURS,
    ResultFigure,
    Style,
    draw_intervals,
    drawn,
    legend_above,
    legend_below,
    line_look,
    shown,
    whole_numbers,
)

# Monotone in lightness, so values have the same order in colour and in grey.
SEQUENTIAL = "Blues"


def stability(found: Stability | StabilityCurves, *, style: Style = "screen") -> ResultFigure:
    """Draw how a circuit changes with its prompts, by size of the sets and neuron by neuron.

    The left panel shows the Jaccard index with the circuit of all prompts, of two resamples, and
    of two sets without a common prompt, with the percentiles of the resamples. The right panel
    shows the share of bootstrap resamples that choose each neuron of the circuit again.

    Args:
        found: from `cna_lens.stability`, or its `curves`.
        style: "screen", or "paper" for a column of 3.3 inches.
    """
    found = found.curves() if isinstance(found, Stability) else found
    k = len(found.frequency)
    confidence = f"{100 * found.confidence:g} % of {found.n_resamples} resamples"
    with drawn(style, 2) as (figure, axes):
        curves = {
            "with the circuit": {size.size: size.with_all for size in found.sizes},
            "two resamples": {size.size: size.between for size in found.sizes},
            "disjoint sets": {
                size.size: size.disjoint for size in found.sizes if size.disjoint is not None
            },
        }
        for place, (name, sizes) in enumerate(curves.items()):
            if sizes:
                values = list(sizes.values())
                draw_intervals(axes[0], list(sizes), values, line_look(place), label=name)
        alone: dict[str, Any] = line_look(0) | {"linestyle": "none"}
        draw_intervals(axes[0], [found.n_prompts], [found.jaccard], alone)
        axes[0].set(
            title=f"with {confidence}",
            xlabel="prompts of each side",
            ylabel="Jaccard index",
            ylim=(-0.03, 1.03),
        )
        legend_below(figure, axes[0])
        ranks = range(1, k + 1)
        axes[1].step(ranks, found.frequency, where="mid", color=COLOURS[0])
        axes[1].fill_between(ranks, found.frequency, step="mid", color=COLOURS[0], alpha=0.25)
        axes[1].set(
            title=f"chosen again in {found.n_resamples} resamples",
            xlabel=f"neurons of the circuit (k = {k})",
            ylabel="share of resamples",
            ylim=(0, 1.03),
        )
        whole_numbers(axes[0].xaxis, axes[1].xaxis)
        figure.description = (
            f"Stability: Jaccard index of the bootstrap circuits {found.jaccard}; "
            f"{found.frequency.count(1.0)} of {k} neurons are in every resample. "
            + "; ".join(
                f"sets of {size.size}: {size.with_all} with the circuit, {size.between} between "
                f"two, {size.disjoint or 'none'} disjoint"
                for size in found.sizes
            )
        )
    return figure


def overlap(found: Transfer, *, style: Style = "screen") -> ResultFigure:
    """Draw the Jaccard index of each pair of circuits, and of circuits random by layer.

    >>> from cna_lens import transfer
    >>> one = Circuit((Neuron(0, 1), Neuron(1, 2)), (2.0, 1.0), Layout((4, 4)))
    >>> other = Circuit((Neuron(0, 1), Neuron(1, 3)), (2.0, 1.0), Layout((4, 4)))
    >>> overlap(transfer({"English": one, "German": other})).description
    'Jaccard indices. English and German: 0.333, by chance 0.188'

    Args:
        found: from `cna_lens.transfer`.
        style: "screen", or "paper" for a column of 3.3 inches.
    """
    matrix = found.matrix().to_numpy()
    names = [shown(name, 16) for name in found.names]
    chance = {(each.first, each.second): each.random_by_layer for each in found.overlaps}
    side = 3.2 if style == "paper" else min(9.0, 2.4 + 0.7 * len(names))
    with drawn(style, 1, height=side) as (figure, (axis,)):
        image = axis.imshow(matrix, vmin=0, vmax=1, cmap=SEQUENTIAL)
        axis.grid(visible=False)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        for row, first in enumerate(found.names):
            for column, second in enumerate(found.names):
                random = chance.get((first, second), chance.get((second, first)))
                beneath = "" if random is None else f"\n({random:.2g})"
                axis.annotate(
                    f"{matrix[row, column]:.2f}{beneath}",
                    (column, row),
                    ha="center",
                    va="center",
                    fontsize="small",
                    color="white" if matrix[row, column] > 0.5 else "black",
                )
        figure.colorbar(image, ax=axis, shrink=0.8, label="Jaccard index (by chance in brackets)")
        figure.description = "Jaccard indices. " + "; ".join(
            f"{each.first} and {each.second}: {each.jaccard:.3g}, by chance "
            f"{each.random_by_layer:.3g}"
            for each in found.overlaps
        )
    return figure


def null(found: NullDistribution | NullCurves, *, style: Style = "screen") -> ResultFigure:
    """Draw the true labels against shuffled labels.

    The left panel shows how many neurons reach the circuit's weakest contrast under shuffled
    labels, beside the circuit's size. The right panel shows how many neurons have at most a pooled
    p-value, beside the number expected by chance.

    Args:
        found: from `null_distribution`, or its `curves`.
        style: "screen", or "paper" for a column of 3.3 inches.
    """
    found = found.curves() if isinstance(found, NullDistribution) else found
    p = np.array(found.p_values)
    with drawn(style, 2) as (figure, axes):
        axes[0].hist(
            found.as_strong,
            bins=_whole_bins(min(found.as_strong), max(found.as_strong)),
            color=COLOURS[3],
            edgecolor="#ffffff",
            linewidth=0.4,
            label="shuffled labels",
        )
        axes[0].axvline(found.k, color="#000000", linestyle="--", label=f"circuit, k = {found.k}")
        axes[0].set(
            xlabel="neurons that reach the circuit's weakest contrast",
            ylabel=f"shufflings, n = {len(found.as_strong)}",
        )
        axes[1].plot(p, found.n_at_or_below, color=COLOURS[0], label="observed")
        axes[1].plot(p, p * found.n_tested, color="#000000", linestyle="--", label="by chance")
        axes[1].set(
            xscale="log",
            yscale="log",
            xlabel="pooled p-value",
            ylabel=f"neurons at or below it, of {found.n_tested}",
        )
        axes[1].set_ylim(bottom=0.5)
        for axis in axes:
            legend_above(axis)
        figure.description = (
            f"Observed against shuffled: shuffled labels bring {found.chance_share} of the "
            f"circuit's size to its weakest contrast; {found.found}."
        )
    return figure


def necessity(found: Necessity, *, style: Style = "screen") -> ResultFigure:
    """Draw the share of the metric that circuits keep, and the share left without them.

    Args:
        found: from `cna_lens.necessity`.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: the result has no points.
    """
    if not found.points:
        raise InputError("the result has no points to draw; give `necessity` rankings and sizes")
    rankings = tuple(dict.fromkeys(point.ranking for point in found.points))
    with drawn(style, 2) as (figure, axes):
        for axis, name, title in (
            (axes[0], "faithfulness", "metric kept by the circuit alone"),
            (axes[1], "completeness", "metric left without the circuit"),
        ):
            for place, ranking in enumerate(rankings):
                points = sorted(
                    (point for point in found.points if point.ranking == ranking),
                    key=lambda point: point.k,
                )
                estimates = [getattr(point, name) for point in points]
                sizes = [point.k for point in points]
                draw_intervals(axis, sizes, estimates, line_look(place), label=shown(ranking))
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(left=0)
            axis.set(
                title=f"{title}, n = {found.n_prompts}",
                xlabel="neurons of the circuit, k",
                ylabel=f"{name} (share)",
            )
        legend_below(figure, axes[0])
        figure.description = f"{found!r}. " + "; ".join(
            f"{point.ranking} k = {point.k}: faithfulness {point.faithfulness}, completeness "
            f"{point.completeness}"
            for point in found.points
        )
    return figure


def _whole_bins(least: int, most: int) -> list[float]:
    """The edges of at most 40 bins, between whole numbers."""
    step = max(1, (most - least) // 40 + 1)
    return [edge - 0.5 for edge in range(least, most + step + 1, step)]
