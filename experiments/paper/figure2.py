"""Figure 2: questions that the models still answer rightly, against strength.

python -m experiments figure2 --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens import wilson
from experiments.study import paper
from experiments.study.cells import UNSTEERED, Cell, Steering, once
from experiments.study.experiment import Experiment, Results
from experiments.study.figures import lines
from experiments.study.measures import FACTUAL_TASKS
from experiments.study.outcomes import change
from experiments.study.readings import of_caa, of_circuits, of_discovery
from experiments.study.reporting import Row
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources
from experiments.study.sweep import methods


def cells(study: Study, _: Sources) -> list[Cell]:
    """Both methods at every strength, on the same questions."""
    return [
        _cell(subject, steering, strength)
        for subject in study.subjects("instruct")
        for steering in methods(study).values()
        for strength in study.strengths
    ]


def _cell(subject: Subject, steering: Steering, strength: float) -> Cell:
    return once("capability", subject, steering if strength else UNSTEERED, strength)


def found(results: Results) -> Iterator[Row]:
    """Accuracy, and its change from the unsteered model."""
    study = results.study
    for subject in study.subjects("instruct"):
        before = results.of(_cell(subject, UNSTEERED, 0.0))["right"]
        for method, steering in methods(study).items():
            for strength in study.strengths:
                at = f"{method} {strength:g}"
                right = results.of(_cell(subject, steering, strength))["right"]
                yield Row(
                    subject.label,
                    f"right, {at}",
                    wilson(right),
                    at=strength,
                    series=f"{method}, {subject.pair.name}",
                )
                if strength:
                    changed = change(before, right, study.seed)
                    yield Row(subject.label, f"change, {at}", changed, share=True)


def _differences(study: Study, _: Sources) -> tuple[str, ...]:
    asked = (
        "questions of MMLU drawn by the seed; the paper's draw of 1000 is not published"
        if study.capability == "mmlu"
        else f"the packaged questions of {' and '.join(FACTUAL_TASKS)} (right word against wrong "
        f"word, chance 50 %), the paper {paper.QUESTIONS} of MMLU (chance 25 %)"
    )
    return (
        asked,
        "the paper prints no numbers: CNA stays within 1 point at every strength, CAA is near "
        "zero at 1",
        *of_discovery(study.small_discovery),
    )


EXPERIMENT = Experiment(
    "figure2",
    "questions answered rightly, against strength",
    cells,
    found,
    _differences,
    readings=(of_circuits, of_caa),
    draw=lines("right", across="strength"),
)
