"""Experiments that ablate several circuits and compare the effects on the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from experiments.study.cells import UNSTEERED, Cell, Steering, asked
from experiments.study.experiment import Results
from experiments.study.outcomes import Outcome, outcome
from experiments.study.reporting import Row
from experiments.study.settings import Role, Study, Subject
from experiments.study.sources import Sources

Conditions = Mapping[str, tuple[Steering, int]]
"""Steering and seed of each condition, by its name in tables."""


def ablation_cells(
    conditions: Callable[[Study], Conditions],
) -> Callable[[Study, Sources], list[Cell]]:
    """The answers of the instruct models, unsteered and under every condition."""

    def cells(study: Study, sources: Sources) -> list[Cell]:
        return [
            cell
            for subject in study.subjects("instruct")
            for steering, seed in ((UNSTEERED, 0), *conditions(study).values())
            for cell in asked(study, sources, "answers", subject, steering, seed=seed)
        ]

    return cells


def ablated(
    results: Results, conditions: Conditions, role: Role = "instruct"
) -> Iterator[tuple[Subject, Outcome, dict[str, Outcome]]]:
    """Each model with its outcome unsteered, and its outcomes under every condition."""
    for subject in results.study.subjects(role):
        yield (
            subject,
            outcome(results, subject),
            {
                name: outcome(results, subject, steering, seed=seed)
                for name, (steering, seed) in conditions.items()
            },
        )


def ablation_rows(subject: Subject, before: Outcome, after: Mapping[str, Outcome]) -> Iterator[Row]:
    """Refusals, their change, the change of the log-odds, and quality."""
    name = subject.label
    yield Row(name, "refused, unsteered", before.refusal_rate)
    yield Row(name, "quality, unsteered", before.mean_quality)
    for condition, seen in after.items():
        change = f"change, {condition}, McNemar p = {seen.p_value(before):.2g}"
        yield Row(name, f"refused, {condition}", seen.refusal_rate)
        yield Row(name, change, seen.refusals_since(before), share=True)
        yield Row(name, f"log-odds, change in nats, {condition}", seen.log_odds_since(before))
        yield Row(name, f"quality, {condition}", seen.mean_quality)
