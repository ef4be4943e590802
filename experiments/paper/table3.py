"""Table 3: refusals of JBB before and after the circuit is ablated; discovery on 100 + 100 prompts.

python -m experiments table3 --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.study import paper
from experiments.study.ablations import Conditions, ablated, ablation_cells
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import cna, of_answers, random_control
from experiments.study.reporting import Row
from experiments.study.settings import Study


def conditions(study: Study) -> Conditions:
    """The circuit ablated, and as many random neurons."""
    seed = study.control_seeds[0]
    return {
        "circuit": (cna(study, study.discovery), seed),
        "random": (random_control(study, study.discovery), seed),
    }


def found(results: Results) -> Iterator[Row]:
    """Refusals, quality and their changes beside the paper's table 3."""
    for subject, before, after in ablated(results, conditions(results.study)):
        circuit, random = after["circuit"], after["random"]
        theirs = paper.TABLE3.get(subject.pair.name)
        for quantity, value, papers in (
            ("refused before", before.refusal_rate, theirs and theirs[0]),
            ("refused after", circuit.refusal_rate, theirs and theirs[1]),
            (
                f"change, McNemar p = {circuit.p_value(before):.2g}",
                circuit.refusals_since(before),
                theirs and theirs[1] - theirs[0],
            ),
            ("quality before", before.mean_quality, None),
            ("quality after", circuit.mean_quality, None),
            (
                f"change by random neurons, p = {random.p_value(before):.2g}",
                random.refusals_since(before),
                None,
            ),
        ):
            share = quantity.startswith("change")
            yield Row(subject.label, quantity, value, papers, share=share)


EXPERIMENT = Experiment(
    "table3",
    "refusals before and after the circuit is ablated",
    ablation_cells(conditions),
    found,
    lambda study, sources: of_answers(study, sources, study.discovery),
)
