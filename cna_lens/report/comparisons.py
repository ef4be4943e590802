"""Steering methods compared: the table, behaviour against strength, and against cost."""

from __future__ import annotations

from cna_lens.report.pictures import can_draw, picture
from cna_lens.report.sections import Picture, Section
from cna_lens.results.rendering import summary_of
from cna_lens.steering.comparison.table import Comparison


def comparison_section(name: str, comparison: Comparison) -> Section:
    """What each method does at each strength, and which are not beaten."""
    summary = summary_of(comparison)
    front = comparison.front()
    lead = "; ".join(
        f"{row.method} at {row.strength:g} ({row.behaviour}, KL {row.kl_per_token})"
        for row in front
    )
    return Section(
        f"Comparison: {name}",
        lead=(f"Not beaten on both behaviour and KL per token: {lead}.",) if lead else (),
        facts=tuple(summary.facts),
        pictures=_pictures(comparison),
        tables=(summary.table,) if summary.table else (),
        caveats=tuple(_caveats(comparison)),
    )


def _pictures(comparison: Comparison) -> tuple[Picture, ...]:
    if not can_draw() or len(comparison.outcomes) < 2:
        return ()
    from cna_lens.viz.figures.sweep import pareto, sweep

    return picture(sweep(comparison)), picture(pareto(comparison))


def _caveats(comparison: Comparison) -> list[str]:
    baseline, *rows = comparison.rows
    found: list[str] = []
    if not rows:
        found.append("Only the unsteered model is in the file: nothing is compared yet.")
    if len(rows) > 1:
        found.append(
            f"These are {len(rows)} tests; at p < 0.05 about {0.05 * len(rows):.1g} of them would "
            "be met by chance alone. The p-values are not corrected for that."
        )
        found.append(
            "A strength means something else for each method: compare methods where they do as "
            "much, or cost as much, and not where their strengths are equal."
        )
    if baseline.behaviour.value * baseline.behaviour.n < 6:
        found.append(
            f"Unsteered, {baseline.behaviour} show the behaviour: too few for a drop to reach "
            "p < 0.05."
        )
    babble = [
        row
        for row in rows
        if row.quality_change is not None
        and row.quality_change.high is not None
        and row.quality_change.high < 0
    ]
    if babble:
        named = ", ".join(f"{row.method} at {row.strength:g}" for row in babble)
        found.append(f"The answers' quality falls with {named}: less behaviour may be more babble.")
    return found
