"""How many prompts does it take to find the same circuit again?

python -m experiments settle_discovery_size --config smollm2
"""

from __future__ import annotations

from cna_lens import Estimate
from experiments.study.cells import Cell, Steering, once
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import discovery, of_circuits, of_discovery, of_models
from experiments.study.reporting import Report, Row, interval
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

QUESTION = "How many prompts does it take to find the same circuit again?"


def _cell(study: Study, subject: Subject) -> Cell:
    filtered = "none" if study.universal_filter == "none" else "before"
    found = discovery(study, study.discovery, universal=filtered)
    return once("stability", subject, Steering(discovery=found))


def cells(study: Study, sources: Sources) -> list[Cell]:  # noqa: ARG001
    """One for each instruct model."""
    return [_cell(study, subject) for subject in study.subjects("instruct")]


def report(study: Study, sources: Sources, results: Results) -> Report:  # noqa: ARG001
    """The Jaccard index of two circuits from sets of one size."""
    rows: list[Row] = []
    answers: list[str] = []
    for subject in study.subjects("instruct"):
        values = results.of(_cell(study, subject))
        parts: list[str] = []
        for size in values["sizes"]:
            name = f"{size['size']} + {size['size']} prompts"
            between = Estimate(**size["between"])
            rows.append(Row(subject.label, f"{name}, drawn with replacement", between))
            if size["disjoint"] is not None:
                disjoint = Estimate(**size["disjoint"])
                rows.append(Row(subject.label, f"{name}, none in common", disjoint))
                parts.append(f"{interval(disjoint)} from {name}")
        every = Estimate(**values["jaccard"])
        rows.append(Row(subject.label, "all prompts resampled, with the circuit itself", every))
        found = (
            f"two circuits from sets without a common prompt have a Jaccard index of "
            f"{', '.join(parts)}"
            if parts
            else "there are too few prompts for two sets without a common one"
        )
        answers.append(
            f"{subject.label}, circuits of {values['k']}: {found}; resampling all "
            f"{values['n_positive']} + {values['n_negative']} gives {interval(every)}."
        )
    return Report(
        "settle_discovery_size",
        QUESTION,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            "the paper finds circuits on 8 + 8 and on 100 + 100 prompts and compares none; n is "
            "the number of resamples",
            *of_discovery(study.discovery),
        ),
        readings=of_circuits(study),
        answer=" ".join(answers),
    )


EXPERIMENT = Experiment("settle_discovery_size", QUESTION, cells, report)
