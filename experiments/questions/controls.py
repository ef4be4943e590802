"""Does ablating the circuit do more than ablating random neurons of the same layers?

python -m experiments settle_controls --config smollm2
"""

from __future__ import annotations

from statistics import fmean

from cna_lens import Estimate, paired_bootstrap
from experiments.study.ablations import (
    Conditions,
    ablation_cells,
    ablation_rows,
    outcomes,
)
from experiments.study.cells import Cell
from experiments.study.experiment import Experiment, Results
from experiments.study.outcomes import Outcome
from experiments.study.readings import cna, of_answers, of_circuits, of_models, random_control
from experiments.study.reporting import Report, Row, excludes_zero, interval
from experiments.study.settings import Study
from experiments.study.sources import Sources

QUESTION = "Does ablating the circuit do more than ablating random neurons of the same layers?"
MATCHES = {"layer": "random", "magnitude": "random of like magnitude"}


def _conditions(study: Study) -> Conditions:
    prompts = study.discovery
    return {"circuit": (cna(study, prompts), 0)} | {
        f"{name}, seed {seed}": (random_control(study, prompts, match), seed)
        for match, name in MATCHES.items()
        for seed in study.control_seeds
    }


def cells(study: Study, sources: Sources) -> list[Cell]:
    """The circuit, and random neurons matched in two ways, one draw a seed."""
    return ablation_cells(study, sources, _conditions(study))


def report(study: Study, sources: Sources, results: Results) -> Report:
    """Refusals with each, and what the circuit does beyond the mean of its controls."""
    rows: list[Row] = []
    answers: list[str] = []
    for subject in study.subjects("instruct"):
        before, after = outcomes(study, sources, results, subject, _conditions(study))
        rows += ablation_rows(subject, before, after)
        parts: list[str] = []
        for name in MATCHES.values():
            controls = [after[f"{name}, seed {seed}"] for seed in study.control_seeds]
            beyond = _beyond(after["circuit"], controls, study.seed)
            rows.append(Row(subject.label, f"circuit less {name}", beyond, share=True))
            parts.append(
                f"{interval(beyond, share=True)} beyond {name} neurons, which is "
                f"{'more' if excludes_zero(beyond) else 'not more'} than chance explains"
            )
        change = interval(after["circuit"].refusals_since(before), share=True)
        answers.append(
            f"{subject.label}: the circuit changes the share refused by {change}, "
            f"{' and '.join(parts)}."
        )
    return Report(
        "settle_controls",
        QUESTION,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            "the paper has no random control",
            f"controls are means over {len(study.control_seeds)} seed(s) for each request",
            *of_answers(study, sources, study.discovery),
        ),
        readings=of_circuits(study),
        answer=" ".join(answers),
    )


def _beyond(circuit: Outcome, controls: list[Outcome], seed: int) -> Estimate:
    """The share refused with the circuit ablated less that with random neurons ablated."""
    by_control = [fmean(row) for row in zip(*(each.refused for each in controls), strict=True)]
    return paired_bootstrap(by_control, [float(each) for each in circuit.refused], seed=seed)


EXPERIMENT = Experiment("settle_controls", QUESTION, cells, report)
