"""Experiments that ablate several circuits and compare what that does to the answers."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.study.cells import UNSTEERED, Cell, Steering, asked
from experiments.study.experiment import Results
from experiments.study.outcomes import Outcome, outcome
from experiments.study.reporting import Row
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

Conditions = Mapping[str, tuple[Steering, int]]
"""Steering and seed, by what tables call it."""


def ablation_cells(study: Study, sources: Sources, conditions: Conditions) -> list[Cell]:
    """The answers of the instruct models, unsteered and under every condition."""
    return [
        cell
        for subject in study.subjects("instruct")
        for steering, seed in ((UNSTEERED, 0), *conditions.values())
        for cell in asked(study, sources, "answers", subject, steering, seed=seed)
    ]


def outcomes(
    study: Study, sources: Sources, results: Results, subject: Subject, conditions: Conditions
) -> tuple[Outcome, dict[str, Outcome]]:
    """What was seen unsteered, and under every condition."""
    return outcome(study, sources, results, subject), {
        name: outcome(study, sources, results, subject, steering, seed=seed)
        for name, (steering, seed) in conditions.items()
    }


def ablation_rows(subject: Subject, before: Outcome, after: Mapping[str, Outcome]) -> list[Row]:
    """Refusals, their change, the change of the log-odds, and quality."""
    name = subject.label
    rows = [
        Row(name, "refused, unsteered", before.refusal_rate),
        Row(name, "quality, unsteered", before.mean_quality),
    ]
    for condition, seen in after.items():
        rows += [
            Row(name, f"refused, {condition}", seen.refusal_rate),
            Row(
                name,
                f"change, {condition}, McNemar p = {seen.p_value(before):.2g}",
                seen.refusals_since(before),
                share=True,
            ),
            Row(name, f"log-odds, change in nats, {condition}", seen.log_odds_since(before)),
            Row(name, f"quality, {condition}", seen.mean_quality),
        ]
    return rows
