"""Table 6: the share of a circuit in late layers, for three tasks.

python -m experiments table6 --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens import Layout, circuit_size
from experiments.study import paper
from experiments.study.cells import Cell
from experiments.study.circuits import of_tasks, share_late, task_cell, task_cells
from experiments.study.experiment import Experiment, Results
from experiments.study.paper import TASKS
from experiments.study.reporting import Row
from experiments.study.settings import Study
from experiments.study.sources import Sources


def cells(study: Study, _: Sources) -> list[Cell]:
    """The top neurons of each task on each instruct model."""
    return task_cells(study, study.subjects("instruct"))


def found(results: Results) -> Iterator[Row]:
    """Shares in late layers beside the paper's table 6."""
    for subject in results.study.subjects("instruct"):
        theirs = paper.TABLE6.get(subject.pair.name, {})
        for task in TASKS:
            cell = task_cell(results.study, subject, task)
            n_layers = Layout(tuple(results.of(cell)["widths"])).n_layers
            quarter = circuit_size(n_layers, fraction=1 / 4)
            for place, (region, late) in enumerate(
                {"last 3 layers": 3, f"last quarter ({quarter} layers)": quarter}.items()
            ):
                yield Row(
                    subject.label,
                    f"{task}, {region}",
                    share_late(results, cell, late),
                    theirs[task][place] if theirs else None,
                    share=True,
                )


EXPERIMENT = Experiment(
    "table6", "share of the top neurons in the last layers", cells, found, of_tasks
)
