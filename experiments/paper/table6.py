"""Table 6: how much of a circuit lies in late layers, for three tasks.

python -m experiments table6 --config smollm2
"""

from __future__ import annotations

from cna_lens import Layout, circuit_size
from experiments.study import paper
from experiments.study.cells import Cell
from experiments.study.circuits import TASKS, share_late, task_cell
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import of_circuits, of_discovery, of_models
from experiments.study.reporting import Report, Row
from experiments.study.settings import Study
from experiments.study.sources import Sources

TITLE = "share of the top neurons in the last layers"


def cells(study: Study, sources: Sources) -> list[Cell]:  # noqa: ARG001
    """The top neurons of each task on each instruct model."""
    return [
        task_cell(study, subject, task) for subject in study.subjects("instruct") for task in TASKS
    ]


def report(study: Study, sources: Sources, results: Results) -> Report:  # noqa: ARG001
    """Beside the paper's table 6."""
    rows: list[Row] = []
    for subject in study.subjects("instruct"):
        theirs = paper.TABLE6.get(subject.pair.name, {})
        for task in TASKS:
            cell = task_cell(study, subject, task)
            n_layers = Layout(tuple(results.of(cell)["widths"])).n_layers
            quarter = circuit_size(n_layers, fraction=1 / 4)
            for place, (region, late) in enumerate(
                {"last 3 layers": 3, f"last quarter ({quarter} layers)": quarter}.items()
            ):
                rows.append(
                    Row(
                        subject.label,
                        f"{task}, {region}",
                        share_late(results, cell, late),
                        theirs[task][place] if theirs else None,
                        share=True,
                    )
                )
    return Report(
        "table6",
        TITLE,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            f"the top {study.top} neurons, the paper's {paper.TOP}",
            *of_discovery(study.discovery, "capitals", "agreement"),
            "intervals are percentiles over resampled prompts; n is the number of neurons",
        ),
        readings=of_circuits(study),
    )


EXPERIMENT = Experiment("table6", TITLE, cells, report)
