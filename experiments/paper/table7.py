"""Table 7: the share of a circuit in the last 3 layers, base against instruct.

python -m experiments table7 --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.study import paper
from experiments.study.cells import Cell
from experiments.study.circuits import of_tasks, share_late, task_cell, task_cells
from experiments.study.experiment import Experiment, Results, needs_base
from experiments.study.paper import TASKS
from experiments.study.reporting import Row
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources


def _subjects(study: Study) -> list[Subject]:
    """Both models of each pair that has a base model."""
    return [each for each in study.subjects("base", "instruct") if each.pair.base is not None]


def cells(study: Study, _: Sources) -> list[Cell]:
    """The top neurons of each task on each of these models."""
    return task_cells(study, _subjects(study))


def found(results: Results) -> Iterator[Row]:
    """Shares in the last 3 layers beside the paper's table 7."""
    for task in TASKS:
        for subject in _subjects(results.study):
            theirs = paper.TABLE7.get(subject.pair.name)
            place = ("base", "instruct").index(subject.role)
            late = share_late(results, task_cell(results.study, subject, task), 3)
            yield Row(subject.label, task, late, theirs and theirs[task][place], share=True)


EXPERIMENT = Experiment(
    "table7",
    "share of the top neurons in the last 3 layers, base and instruct",
    cells,
    found,
    of_tasks,
    roles=("base", "instruct"),
    unavailable=needs_base,
)
