"""How many neurons must be ablated before refusals go away?

python -m experiments settle_fraction --config smollm2
"""

from __future__ import annotations

from experiments.study.ablations import (
    Conditions,
    ablation_cells,
    ablation_rows,
    outcomes,
)
from experiments.study.cells import Cell
from experiments.study.experiment import Experiment, Results
from experiments.study.outcomes import Outcome
from experiments.study.readings import cna, of_answers, of_circuits, of_models
from experiments.study.reporting import Report, Row, interval
from experiments.study.settings import Study
from experiments.study.sources import Sources

QUESTION = "How many neurons must be ablated before refusals go away?"


def _conditions(study: Study) -> Conditions:
    return {
        f"{fraction:.2%}": (cna(study, study.discovery, fraction=fraction), 0)
        for fraction in study.fractions
    }


def cells(study: Study, sources: Sources) -> list[Cell]:
    """The paper's ablation at every size."""
    return ablation_cells(study, sources, _conditions(study))


def report(study: Study, sources: Sources, results: Results) -> Report:
    """Refusals and quality against the circuit's share, and where half of the refusals are gone."""
    rows: list[Row] = []
    answers: list[str] = []
    for subject in study.subjects("instruct"):
        before, after = outcomes(study, sources, results, subject, _conditions(study))
        rows += ablation_rows(subject, before, after)
        answers.append(f"{subject.label}: {_sentence(before, after)}")
    return Report(
        "settle_fraction",
        QUESTION,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            "the paper takes 0.1 % throughout",
            *of_answers(study, sources, study.discovery),
        ),
        readings=of_circuits(study),
        answer=" ".join(answers),
    )


def _sentence(before: Outcome, after: dict[str, Outcome]) -> str:
    unsteered = before.refusal_rate
    head = f"{interval(unsteered)} are refused unsteered"
    halved = [size for size, seen in after.items() if 2 * sum(seen.refused) <= sum(before.refused)]
    if not any(before.refused):
        return f"{head}, so that there is nothing to take away."
    size = halved[0] if halved else list(after)[-1]
    seen = after[size]
    quality = seen.mean_quality
    at = (
        f"{interval(seen.refusal_rate)} at {size} of the neurons, a change of "
        f"{interval(seen.refusals_since(before), share=True)}, with quality "
        f"{'undefined' if quality is None else interval(quality)}"
    )
    if halved:
        return f"{head}; the smallest size tried that leaves half of that or less leaves {at}."
    return f"{head}; none of the sizes tried leaves half of that, the largest leaves {at}."


EXPERIMENT = Experiment("settle_fraction", QUESTION, cells, report)
