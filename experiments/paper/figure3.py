"""Figure 3: the top neurons of three tasks, layer by layer.

python -m experiments figure3 --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens import Layout
from experiments.paper.table6 import cells
from experiments.study.circuits import of_tasks, over_resamples, task_cell
from experiments.study.experiment import Experiment, Results
from experiments.study.figures import lines
from experiments.study.paper import TASKS
from experiments.study.reporting import Row


def found(results: Results) -> Iterator[Row]:
    """A row for each layer; layers that no circuit of any resample reaches have a count of 0."""
    for subject in results.study.subjects("instruct"):
        for task in TASKS:
            cell = task_cell(results.study, subject, task)
            layout = Layout(tuple(results.of(cell)["widths"]))
            for layer in range(layout.n_layers):
                mine = range(layout.starts[layer], layout.starts[layer + 1])
                yield Row(
                    subject.label,
                    f"neurons, {task}, layer {layer}",
                    over_resamples(
                        results,
                        cell,
                        lambda neurons, mine=mine: float(sum(flat in mine for flat in neurons)),
                    ),
                    at=layer,
                    series=f"{task}, {subject.pair.name}",
                )


EXPERIMENT = Experiment(
    "figure3",
    "neurons in each layer",
    cells,
    found,
    lambda study, sources: (
        "the paper prints no numbers; those of its tables 6 and 7 are the same circuits",
        *of_tasks(study, sources),
    ),
    draw=lines("neurons", across="layer"),
)
