"""Steering methods compared: the table, behaviour against strength, and behaviour against cost."""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens.report.pictures import figure
from cna_lens.report.sections import Section
from cna_lens.results.rendering import summary_of
from cna_lens.steering.comparison.table import Comparison


def comparison_section(name: str, comparison: Comparison) -> Section:
    """What each method does at each strength, and which rows no other row beats."""
    summary = summary_of(comparison)
    lead = "; ".join(
        f"{row.method} at {row.strength:g} ({row.behaviour}, KL {row.kl_per_token})"
        for row in comparison.front()
    )
    views = ("sweep", "pareto") if len(comparison.outcomes) > 1 else ()
    return Section(
        f"Comparison: {name}",
        lead=(f"Not beaten on both behaviour and KL per token: {lead}.",) if lead else (),
        facts=tuple(summary.facts),
        pictures=tuple(drawn for view in views for drawn in figure(view, comparison)),
        tables=(summary.table,) if summary.table else (),
        caveats=tuple(_caveats(comparison)),
    )


def _caveats(comparison: Comparison) -> Iterator[str]:
    baseline, *rows = comparison.rows
    if not rows:
        yield "Only the unsteered model is in the file: nothing is compared yet."
    if len(rows) > 1:
        yield (
            f"These are {len(rows)} tests; by chance alone about {0.05 * len(rows):.1g} of them "
            "would reach p < 0.05. The p-values are not corrected for that."
        )
        yield (
            "Strength has another meaning for each method: compare methods where they do as much "
            "or cost as much, not where their strengths are equal."
        )
    if baseline.behaviour.value * baseline.behaviour.n < 6:
        yield (
            f"Unsteered, {baseline.behaviour} show the behaviour: too few for a drop to reach "
            "p < 0.05."
        )
    yield (
        "An answer that no longer shows the behaviour need not do what was asked: look at the "
        "column of compliance."
        if baseline.compliance is not None
        else "The file is older than the labels of compliance: less of the behaviour does not say "
        "that more answers do what was asked."
    )
    none = ", ".join(
        f"{row.method} at {row.strength:g} ({row.no_answer})"
        for row in rows
        if row.no_answer is not None
        and baseline.no_answer is not None
        and row.no_answer.value > baseline.no_answer.value
    )
    if none:
        yield f"More answers are empty or degenerate, and no success, with {none}."
    babble = ", ".join(
        f"{row.method} at {row.strength:g}"
        for row in rows
        if row.quality_change is not None
        and row.quality_change.high is not None
        and row.quality_change.high < 0
    )
    if babble:
        yield f"The answers' quality falls with {babble}: less behaviour may be more babble."
