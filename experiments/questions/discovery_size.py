"""How many prompts does it take to find the same circuit again?

python -m experiments settle_discovery_size --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens import Estimate
from experiments.study.cells import Cell, Steering, once
from experiments.study.experiment import Experiment, Finding, Results
from experiments.study.readings import discovery, of_discovery
from experiments.study.reporting import Row, interval
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources


def _cell(study: Study, subject: Subject) -> Cell:
    filtered = "none" if study.universal_filter == "none" else "before"
    found = discovery(study, study.discovery, universal=filtered)
    return once("stability", subject, Steering(discovery=found))


def cells(study: Study, _: Sources) -> list[Cell]:
    """One cell for each instruct model."""
    return [_cell(study, subject) for subject in study.subjects("instruct")]


def found(results: Results) -> Iterator[Finding]:
    """The Jaccard index of two circuits from prompt sets of one size."""
    for subject in results.study.subjects("instruct"):
        values = results.of(_cell(results.study, subject))
        parts: list[str] = []
        for size in values["sizes"]:
            name = f"{size['size']} + {size['size']} prompts"
            between = Estimate(**size["between"])
            yield Row(subject.label, f"{name}, drawn with replacement", between)
            if size["disjoint"] is not None:
                disjoint = Estimate(**size["disjoint"])
                yield Row(subject.label, f"{name}, none in common", disjoint)
                parts.append(f"{interval(disjoint)} from {name}")
        every = Estimate(**values["jaccard"])
        yield Row(subject.label, "all prompts resampled, with the circuit itself", every)
        agreement = (
            f"two circuits from sets without a common prompt have a Jaccard index of "
            f"{', '.join(parts)}"
            if parts
            else "there are too few prompts for two sets without a common one"
        )
        yield (
            f"{subject.label}, circuits of {values['k']}: {agreement}; resampling all "
            f"{values['n_positive']} + {values['n_negative']} gives {interval(every)}."
        )


EXPERIMENT = Experiment(
    "settle_discovery_size",
    "How many prompts does it take to find the same circuit again?",
    cells,
    found,
    lambda study, _: (
        "the paper finds circuits on 8 + 8 and on 100 + 100 prompts and compares none; n is the "
        "number of resamples",
        *of_discovery(study.discovery),
    ),
)
