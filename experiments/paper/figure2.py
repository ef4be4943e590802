"""Figure 2: what the models still know, against strength.

python -m experiments figure2 --config smollm2
"""

from __future__ import annotations

from pathlib import Path

from cna_lens import wilson
from experiments.study import paper
from experiments.study.cells import UNSTEERED, Cell, Steering, once
from experiments.study.experiment import Experiment, Results
from experiments.study.figures import draw_lines
from experiments.study.measures import FACTUAL_TASKS
from experiments.study.outcomes import change
from experiments.study.readings import of_caa, of_circuits, of_discovery, of_models
from experiments.study.reporting import Report, Row
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources
from experiments.study.sweep import methods

TITLE = "questions answered rightly, against strength"


def cells(study: Study, sources: Sources) -> list[Cell]:  # noqa: ARG001
    """Both methods at every strength, on the same questions."""
    return [
        _cell(subject, steering, strength)
        for subject in study.subjects("instruct")
        for steering in methods(study).values()
        for strength in study.strengths
    ]


def _cell(subject: Subject, steering: Steering, strength: float) -> Cell:
    return once("capability", subject, steering if strength else UNSTEERED, strength)


def report(study: Study, sources: Sources, results: Results) -> Report:  # noqa: ARG001
    """Accuracy, and its change from the unsteered model."""
    rows: list[Row] = []
    for subject in study.subjects("instruct"):
        before = results.of(_cell(subject, UNSTEERED, 0.0))["right"]
        for method, steering in methods(study).items():
            for strength in study.strengths:
                right = results.of(_cell(subject, steering, strength))["right"]
                rows.append(
                    Row(
                        subject.label,
                        f"right, {method} {strength:g}",
                        wilson(right),
                        at=strength,
                        series=f"{method}, {subject.pair.name}",
                    )
                )
                if strength:
                    rows.append(
                        Row(
                            subject.label,
                            f"change, {method} {strength:g}",
                            change(before, right, study.seed),
                            share=True,
                        )
                    )
    asked = (
        "questions of MMLU drawn by the seed; the paper's draw of 1000 is not published"
        if study.capability == "mmlu"
        else f"the packaged questions of {' and '.join(FACTUAL_TASKS)} (right word against wrong "
        f"word, chance 50 %), the paper {paper.QUESTIONS} of MMLU (chance 25 %)"
    )
    return Report(
        "figure2",
        TITLE,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            asked,
            "the paper prints no numbers: CNA stays within 1 point at every strength, CAA is near "
            "zero at 1",
            *of_discovery(study.small_discovery),
        ),
        readings=(*of_circuits(study), *of_caa(study)),
    )


def draw(report: Report, path: Path) -> None:
    """One panel."""
    draw_lines(report, path, ("right",), "strength")


EXPERIMENT = Experiment("figure2", TITLE, cells, report, draw=draw)
