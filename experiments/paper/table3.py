"""Table 3: refusals of JBB before and after the circuit is ablated; discovery on 100 + 100 prompts.

python -m experiments table3 --config smollm2
"""

from __future__ import annotations

from experiments.study import paper
from experiments.study.cells import UNSTEERED, Cell, asked
from experiments.study.experiment import Experiment, Results
from experiments.study.outcomes import outcome
from experiments.study.readings import cna, of_answers, of_circuits, of_models, random_control
from experiments.study.reporting import Report, Row
from experiments.study.settings import Study
from experiments.study.sources import Sources

TITLE = "refusals before and after the circuit is ablated"


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Unsteered, the circuit ablated, and as many random neurons."""
    conditions = (
        UNSTEERED,
        cna(study, study.discovery),
        random_control(study, study.discovery),
    )
    return [
        cell
        for subject in study.subjects("instruct")
        for steering in conditions
        for cell in asked(study, sources, "answers", subject, steering, seed=study.control_seeds[0])
    ]


def report(study: Study, sources: Sources, results: Results) -> Report:
    """Beside the paper's table 3."""
    rows: list[Row] = []
    seed = study.control_seeds[0]
    for subject in study.subjects("instruct"):
        before = outcome(study, sources, results, subject)
        after, control = (
            outcome(study, sources, results, subject, steering, seed=seed)
            for steering in (cna(study, study.discovery), random_control(study, study.discovery))
        )
        theirs = paper.TABLE3.get(subject.pair.name)
        p, random_p = after.p_value(before), control.p_value(before)
        rows += [
            Row(subject.label, "refused before", before.refusal_rate, theirs and theirs[0]),
            Row(subject.label, "refused after", after.refusal_rate, theirs and theirs[1]),
            Row(
                subject.label,
                f"change, McNemar p = {p:.2g}",
                after.refusals_since(before),
                theirs and theirs[1] - theirs[0],
                share=True,
            ),
            Row(subject.label, "quality before", before.mean_quality),
            Row(subject.label, "quality after", after.mean_quality),
            Row(
                subject.label,
                f"change by random neurons, p = {random_p:.2g}",
                control.refusals_since(before),
                share=True,
            ),
        ]
    return Report(
        "table3",
        TITLE,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            *of_answers(study, sources, study.discovery),
        ),
        readings=of_circuits(study),
    )


EXPERIMENT = Experiment("table3", TITLE, cells, report)
