"""Refusals, compliance and quality under each condition, beside those of the control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cna_lens.errors import InputError
from cna_lens.metrics.conditions import Answered
from cna_lens.results.statistics import Rate
from cna_lens.viz.figures.style import ResultFigure, Style, draw_intervals, drawn, line_look, shown


def answers(found: Sequence[Answered], *, style: Style = "screen") -> ResultFigure:
    """Draw refusals, compliance and quality under each condition, with 95 % intervals, a row each.

    A cross is the share of empty and degenerate answers, which are neither refusals nor compliance.

    >>> from cna_lens.metrics import label
    >>> answered = [Answered("unsteered, m = 1", "harmful", label(["a"], ["I'm sorry, no."]))]
    >>> print(answers(answered).description)
    Refusals, compliance and quality. harmful, unsteered, m = 1: refused 100.0 % [20.7, ...

    Args:
        found: labels of answers, as `cna-lens evaluate` writes them and `load_labels` reads them.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: there are no answers.
    """
    if not found:
        raise InputError("there are no answers to show")
    names = [f"{shown(each.kind, 16)}: {shown(each.condition)}" for each in found]
    refused = [each.evaluation.refusal_rate for each in found]
    complied = [each.evaluation.compliance_rate for each in found]
    none = [each.evaluation.no_answer_rate for each in found]
    qualities = [each.evaluation.quality for each in found]
    conditions = list(dict.fromkeys(each.condition for each in found))
    looks = [conditions.index(each.condition) for each in found]
    tall = (0.9 if style == "paper" else 1.2) + 0.32 * len(found)
    with drawn(style, 3, height=tall) as (figure, axes):
        panels = (axes[0], refused, 100.0), (axes[1], complied, 100.0), (axes[2], qualities, 1.0)
        for axis, values, scale in panels:
            for place, (value, look) in enumerate(zip(values, looks, strict=True)):
                if value is not None:
                    alone: dict[str, Any] = line_look(look) | {"linestyle": "none"}
                    draw_intervals(axis, [place], [value], alone, scale=scale, across=True)
            axis.set_ylim(len(found) - 0.5, -0.5)
            axis.grid(visible=False, axis="y")
            labelled = axis is axes[0] or style == "paper"
            axis.set_yticks(range(len(found)), names if labelled else [""] * len(found))
        crosses = [(100 * rate.value, at) for at, rate in enumerate(none) if rate is not None]
        if crosses:
            axes[1].plot(*zip(*crosses, strict=True), "x", color="black", clip_on=False)
        axes[0].set(xlabel=f"refused ({_counts(refused)})", xlim=(-3, 103))
        told = _counts([*complied, *none])
        axes[1].set(xlabel=f"complied; ✕ no answer ({told})", xlim=(-3, 103))
        axes[2].set(xlabel="4-gram quality (1 is best)", xlim=(-0.03, 1.03))
        figure.description = "Refusals, compliance and quality. " + "; ".join(
            f"{each.kind}, {each.condition}: refused {rate}, complied {did or 'unknown'}, "
            f"no answer {no or 'unknown'}, quality {quality or 'none'}"
            for each, rate, did, no, quality in zip(
                found, refused, complied, none, qualities, strict=True
            )
        )
    return figure


def _counts(rates: Sequence[Rate | None]) -> str:
    """Say of how many answers the known rates are shares."""
    counts = sorted({rate.n for rate in rates if rate is not None})
    if not counts:
        return "no labels"
    between = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"% of {between} answers"
