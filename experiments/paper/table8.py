"""Table 8: the neurons that a base model's and an instruct model's circuits share.

python -m experiments table8 --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens import Estimate, transfer
from experiments.paper.table7 import cells
from experiments.study import paper
from experiments.study.circuits import circuit_of, compared, task_cell
from experiments.study.experiment import Experiment, Results, needs_base
from experiments.study.paper import TASKS
from experiments.study.readings import of_discovery
from experiments.study.reporting import Row
from experiments.study.settings import Subject


def found(results: Results) -> Iterator[Row]:
    """Shares in common beside the paper's table 8, and beside random neurons of the same layers."""
    for pair in results.study.pairs:
        if pair.base is None:
            continue
        theirs = paper.TABLE8.get(pair.name)
        for task in TASKS:
            base, instruct = (
                task_cell(results.study, Subject(pair, role), task) for role in ("base", "instruct")
            )
            shared = compared(
                results,
                (base, instruct),
                lambda one, other: len(one & other) / max(len(one), len(other)),
            )
            (overlap,) = transfer(
                {
                    "base": circuit_of(results.of(base)),
                    "instruct": circuit_of(results.of(instruct)),
                }
            ).overlaps
            # Two circuits of k neurons with Jaccard index j have the share 2j / (1 + j) in common.
            by_chance = 2 * overlap.random_by_layer / (1 + overlap.random_by_layer)
            yield Row(pair.name, task, shared, theirs and theirs[task], share=True)
            yield Row(
                pair.name,
                f"{task}, random neurons of the same layers",
                Estimate(by_chance, None, None, shared.n),
                share=True,
            )


EXPERIMENT = Experiment(
    "table8",
    "share of the top neurons that base and instruct have in common",
    cells,
    found,
    lambda study, _: (
        f"the top {study.top} neurons, the paper's {paper.TOP}; its overlaps are read as per cent",
        *of_discovery(study.discovery, "capitals", "agreement"),
        "intervals are percentiles over prompts resampled alike for both models; n is the number "
        "of neurons",
    ),
    roles=("base", "instruct"),
    unavailable=needs_base,
)
