"""Refusals, compliance and quality under each condition, beside those of the control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cna_lens.errors import InputError
from cna_lens.metrics.conditions import Answered
from cna_lens.metrics.outcome_table import OUTCOMES, outcomes as count_outcomes
from cna_lens.results.statistics import Rate
from cna_lens.viz.figures.style import (
    ResultFigure,
    Style,
    draw_intervals,
    drawn,
    legend_below,
    line_look,
    shown,
    whole_numbers,
)

# Hatches keep the outcomes apart in grey.
_LOOKS: dict[Any, tuple[str, str]] = {
    "refusal": ("#0072b2", ""),
    "compliance": ("#e69f00", ""),
    "no answer": ("#dddddd", "///"),
    "other": ("#777777", ""),
    "unknown": ("#ffffff", "..."),
}


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
        several = any(each.evaluation.samples > 1 for each in found)
        asked = "prompts" if several else "answers"
        axes[0].set(xlabel=f"refused ({_counts(refused, asked)})", xlim=(-3, 103))
        told = _counts([*complied, *none], asked)
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


def outcomes(found: Sequence[Answered], *, style: Style = "screen") -> ResultFigure:
    """Draw what the answers are under each condition, as one bar of all answers for each.

    The numbers in a bar count answers. `metrics.outcomes` has the shares with their intervals.

    >>> from cna_lens.metrics import label
    >>> answered = [Answered("unsteered, m = 1", "harmful", label(["a"], ["I'm sorry, no."]))]
    >>> print(outcomes(answered).description)
    Outcomes of answers. harmful, unsteered, m = 1: 1 refusal, 0 compliance, 0 no answer, 0 other

    Args:
        found: labels of answers, as `cna-lens evaluate` writes them and `load_labels` reads them.
        style: "screen", or "paper" for a column of 3.3 inches.

    Raises:
        InputError: there are no answers.
    """
    rows = count_outcomes(found).rows
    names = [f"{shown(row.kind, 16)}: {shown(row.condition)}" for row in rows]
    tall = (0.9 if style == "paper" else 1.3) + 0.32 * len(rows)
    with drawn(style, height=tall) as (figure, (axis,)):
        starts = [0] * len(rows)
        for name, (colour, hatch) in _LOOKS.items():
            counts = [row.unknown if name == "unknown" else row.counts[name] for row in rows]
            if name == "unknown" and not any(counts):
                continue
            bars = axis.barh(
                range(len(rows)), counts, left=starts, label=name, color=colour, hatch=hatch,
                edgecolor="white", linewidth=0.5, height=0.7,
            )  # fmt: skip
            # Black reads on the light colours, white on the dark ones.
            ink = "white" if name in ("refusal", "other") else "black"
            axis.bar_label(
                bars, [str(n) if n else "" for n in counts], label_type="center", color=ink,
                fontsize="small",
            )  # fmt: skip
            starts = [start + n for start, n in zip(starts, counts, strict=True)]
        axis.set_yticks(range(len(rows)), names)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set(xlabel="answers", ylabel="condition", xlim=(0, max(starts)))
        axis.grid(visible=False, axis="y")
        whole_numbers(axis.xaxis)
        legend_below(figure, axis)
        figure.description = "Outcomes of answers. " + "; ".join(
            f"{row.kind}, {row.condition}: "
            + ", ".join(f"{row.counts[name]} {name}" for name in OUTCOMES)
            + (f", {row.unknown} unknown" if row.unknown else "")
            for row in rows
        )
    return figure


def _counts(rates: Sequence[Rate | None], asked: str) -> str:
    """Say of how many answers, or prompts with several, the known rates are shares."""
    counts = sorted({rate.n for rate in rates if rate is not None})
    if not counts:
        return "no labels"
    between = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"% of {between} {asked}"
