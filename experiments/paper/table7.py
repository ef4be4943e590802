"""Table 7: how much of a circuit lies in the last 3 layers, base against instruct.

python -m experiments table7 --config smollm2
"""

from __future__ import annotations

from experiments.study import paper
from experiments.study.cells import Cell
from experiments.study.circuits import TASKS, share_late, task_cell
from experiments.study.experiment import Experiment, Results, needs_base
from experiments.study.readings import of_circuits, of_discovery, of_models
from experiments.study.reporting import Report, Row
from experiments.study.settings import Study
from experiments.study.sources import Sources

TITLE = "share of the top neurons in the last 3 layers, base and instruct"


def cells(study: Study, sources: Sources) -> list[Cell]:  # noqa: ARG001
    """The top neurons of each task on each model that has a base."""
    return [
        task_cell(study, subject, task)
        for subject in study.subjects("base", "instruct")
        if subject.pair.base is not None
        for task in TASKS
    ]


def report(study: Study, sources: Sources, results: Results) -> Report:  # noqa: ARG001
    """Beside the paper's table 7."""
    rows: list[Row] = []
    for task in TASKS:
        for subject in study.subjects("base", "instruct"):
            if subject.pair.base is None:
                continue
            theirs = paper.TABLE7.get(subject.pair.name)
            place = ("base", "instruct").index(subject.role)
            rows.append(
                Row(
                    subject.label,
                    task,
                    share_late(results, task_cell(study, subject, task), 3),
                    theirs and theirs[task][place],
                    share=True,
                )
            )
    return Report(
        "table7",
        TITLE,
        tuple(rows),
        differences=(
            *of_models(study, "base", "instruct"),
            f"the top {study.top} neurons, the paper's {paper.TOP}",
            *of_discovery(study.discovery, "capitals", "agreement"),
            "intervals are percentiles over resampled prompts; n is the number of neurons",
        ),
        readings=of_circuits(study),
    )


EXPERIMENT = Experiment("table7", TITLE, cells, report, needs_base)
