"""Does ablating the circuit do more than ablating random neurons of the same layers?

python -m experiments settle_controls --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from cna_lens import Estimate, paired_bootstrap
from experiments.study.ablations import Conditions, ablated, ablation_cells, ablation_rows
from experiments.study.experiment import Experiment, Finding, Results
from experiments.study.outcomes import Outcome
from experiments.study.readings import cna, of_answers, random_control
from experiments.study.reporting import Row, excludes_zero, interval
from experiments.study.settings import Study

MATCHES = {"layer": "random", "magnitude": "random of like magnitude"}


def conditions(study: Study) -> Conditions:
    """The circuit, and random neurons matched in two ways, one draw for each seed."""
    prompts = study.discovery
    return {"circuit": (cna(study, prompts), 0)} | {
        f"{name}, seed {seed}": (random_control(study, prompts, match), seed)
        for match, name in MATCHES.items()
        for seed in study.control_seeds
    }


def found(results: Results) -> Iterator[Finding]:
    """Refusals under each condition, and the circuit's effect beyond the mean of its controls."""
    study = results.study
    for subject, before, after in ablated(results, conditions(study)):
        yield from ablation_rows(subject, before, after)
        parts: list[str] = []
        for name in MATCHES.values():
            controls = [after[f"{name}, seed {seed}"] for seed in study.control_seeds]
            beyond = _beyond(after["circuit"], controls, study.seed)
            yield Row(subject.label, f"circuit less {name}", beyond, share=True)
            parts.append(
                f"{interval(beyond, share=True)} beyond {name} neurons, which is "
                f"{'more' if excludes_zero(beyond) else 'not more'} than chance explains"
            )
        change = interval(after["circuit"].refusals_since(before), share=True)
        yield (
            f"{subject.label}: the circuit changes the share refused by {change}, "
            f"{' and '.join(parts)}."
        )


def _beyond(circuit: Outcome, controls: list[Outcome], seed: int) -> Estimate:
    """The share refused with the circuit ablated less that with random neurons ablated."""
    by_control = [fmean(row) for row in zip(*(each.refused for each in controls), strict=True)]
    return paired_bootstrap(by_control, [float(each) for each in circuit.refused], seed=seed)


EXPERIMENT = Experiment(
    "settle_controls",
    "Does ablating the circuit do more than ablating random neurons of the same layers?",
    ablation_cells(conditions),
    found,
    lambda study, sources: (
        "the paper has no random control",
        f"controls are means over {len(study.control_seeds)} seed(s) for each request",
        *of_answers(study, sources, study.discovery),
    ),
)
