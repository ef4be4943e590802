"""Does the circuit depend on the chat template in which it is looked for?

python -m experiments settle_template --config smollm2
"""

from __future__ import annotations

from experiments.study.ablations import (
    Conditions,
    ablation_cells,
    ablation_rows,
    outcomes,
)
from experiments.study.cells import Cell
from experiments.study.circuits import circuit_cell, compared
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import cna, discovery, of_answers, of_circuits, of_models
from experiments.study.reporting import Report, Row, interval
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

QUESTION = "Does the circuit depend on the chat template in which it is looked for?"
FOUND = {"found in the template": True, "found in plain text": False}


def _conditions(study: Study) -> Conditions:
    return {name: (cna(study, study.discovery, chat=chat), 0) for name, chat in FOUND.items()}


def _circuits(study: Study, subject: Subject) -> tuple[Cell, Cell]:
    first, second = (
        circuit_cell(subject, discovery(study, study.discovery, chat=chat))
        for chat in FOUND.values()
    )
    return first, second


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Both circuits, and the answers with each ablated; requests are asked in the template."""
    circuits = [
        cell for subject in study.subjects("instruct") for cell in _circuits(study, subject)
    ]
    return circuits + ablation_cells(study, sources, _conditions(study))


def report(study: Study, sources: Sources, results: Results) -> Report:
    """What the two circuits share, and what ablating each does."""
    rows: list[Row] = []
    answers: list[str] = []
    for subject in study.subjects("instruct"):
        shared = compared(
            results,
            _circuits(study, subject),
            lambda one, other: len(one & other) / len(one | other),
        )
        before, after = outcomes(study, sources, results, subject, _conditions(study))
        rows.append(Row(subject.label, "Jaccard of the two circuits", shared))
        rows += ablation_rows(subject, before, after)
        changes = [
            f"{interval(seen.refusals_since(before), share=True)} {name}"
            for name, seen in after.items()
        ]
        answers.append(
            f"{subject.label}: the circuits have a Jaccard index of {interval(shared)}; ablating "
            f"them changes the share refused by {' and by '.join(changes)}."
        )
    return Report(
        "settle_template",
        QUESTION,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            "the paper looks for circuits in the template only; a model without one gives the "
            "same circuit twice",
            *of_answers(study, sources, study.discovery),
        ),
        readings=of_circuits(study),
        answer=" ".join(answers),
    )


EXPERIMENT = Experiment("settle_template", QUESTION, cells, report)
