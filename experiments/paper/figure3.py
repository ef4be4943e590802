"""Figure 3: the top neurons of three tasks, layer by layer.

python -m experiments figure3 --config smollm2
"""

from __future__ import annotations

from pathlib import Path

from cna_lens import Layout
from experiments.paper.table6 import cells
from experiments.study import paper
from experiments.study.circuits import TASKS, over_resamples, task_cell
from experiments.study.experiment import Experiment, Results
from experiments.study.figures import draw_lines
from experiments.study.readings import of_circuits, of_discovery, of_models
from experiments.study.reporting import Report, Row
from experiments.study.settings import Study
from experiments.study.sources import Sources

TITLE = "neurons in each layer"


def report(study: Study, sources: Sources, results: Results) -> Report:  # noqa: ARG001
    """A row for each layer; layers that no circuit of any resample reaches have a count of 0."""
    rows: list[Row] = []
    for subject in study.subjects("instruct"):
        for task in TASKS:
            cell = task_cell(study, subject, task)
            layout = Layout(tuple(results.of(cell)["widths"]))
            for layer in range(layout.n_layers):
                first, end = layout.starts[layer], layout.starts[layer + 1]
                count = over_resamples(
                    results,
                    cell,
                    lambda neurons, first=first, end=end: float(
                        sum(first <= flat < end for flat in neurons)
                    ),
                )
                rows.append(
                    Row(
                        subject.label,
                        f"neurons, {task}, layer {layer}",
                        count,
                        at=layer,
                        series=f"{task}, {subject.pair.name}",
                    )
                )
    return Report(
        "figure3",
        TITLE,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            "the paper prints no numbers; those of its tables 6 and 7 are the same circuits",
            f"the top {study.top} neurons, the paper's {paper.TOP}",
            *of_discovery(study.discovery, "capitals", "agreement"),
            "intervals are percentiles over resampled prompts; n is the number of neurons",
        ),
        readings=of_circuits(study),
    )


def draw(report: Report, path: Path) -> None:
    """One panel."""
    draw_lines(report, path, ("neurons",), "layer")


EXPERIMENT = Experiment("figure3", TITLE, cells, report, draw=draw)
