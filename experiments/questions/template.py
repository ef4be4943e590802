"""Does the circuit depend on the chat template in which it is looked for?

python -m experiments settle_template --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.study.ablations import Conditions, ablated, ablation_cells, ablation_rows
from experiments.study.cells import Cell
from experiments.study.circuits import circuit_cell, compared
from experiments.study.experiment import Experiment, Finding, Results
from experiments.study.readings import cna, discovery, of_answers
from experiments.study.reporting import Row, interval
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

FOUND = {"found in the template": True, "found in plain text": False}


def conditions(study: Study) -> Conditions:
    """Ablation of the circuit found in the template, and of that found in plain text."""
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
    return circuits + ablation_cells(conditions)(study, sources)


def found(results: Results) -> Iterator[Finding]:
    """The overlap of the two circuits, and the effect of ablating each."""
    study = results.study
    for subject, before, after in ablated(results, conditions(study)):
        shared = compared(
            results,
            _circuits(study, subject),
            lambda one, other: len(one & other) / len(one | other),
        )
        yield Row(subject.label, "Jaccard of the two circuits", shared)
        yield from ablation_rows(subject, before, after)
        changes = [
            f"{interval(seen.refusals_since(before), share=True)} {name}"
            for name, seen in after.items()
        ]
        yield (
            f"{subject.label}: the circuits have a Jaccard index of {interval(shared)}; ablating "
            f"them changes the share refused by {' and by '.join(changes)}."
        )


EXPERIMENT = Experiment(
    "settle_template",
    "Does the circuit depend on the chat template in which it is looked for?",
    cells,
    found,
    lambda study, sources: (
        "the paper looks for circuits in the template only; a model without one gives the same "
        "circuit twice",
        *of_answers(study, sources, study.discovery),
    ),
)
