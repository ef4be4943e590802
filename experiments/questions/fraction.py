"""How many neurons must be ablated before refusals go away?

python -m experiments settle_fraction --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.study.ablations import Conditions, ablated, ablation_cells, ablation_rows
from experiments.study.experiment import Experiment, Finding, Results
from experiments.study.outcomes import Outcome
from experiments.study.readings import cna, of_answers
from experiments.study.reporting import interval
from experiments.study.settings import Study


def conditions(study: Study) -> Conditions:
    """The paper's ablation at every size."""
    return {
        f"{fraction:.2%}": (cna(study, study.discovery, fraction=fraction), 0)
        for fraction in study.fractions
    }


def found(results: Results) -> Iterator[Finding]:
    """Refusals and quality against the circuit's share, and where half of the refusals are gone."""
    for subject, before, after in ablated(results, conditions(results.study)):
        yield from ablation_rows(subject, before, after)
        yield f"{subject.label}: {_sentence(before, after)}"


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


EXPERIMENT = Experiment(
    "settle_fraction",
    "How many neurons must be ablated before refusals go away?",
    ablation_cells(conditions),
    found,
    lambda study, sources: (
        "the paper takes 0.1 % throughout",
        *of_answers(study, sources, study.discovery),
    ),
)
