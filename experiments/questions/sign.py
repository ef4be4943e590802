"""Do the neurons that are more active on harmful requests carry refusals, or the less active ones?

python -m experiments settle_sign --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.study.ablations import Conditions, ablated, ablation_cells, ablation_rows
from experiments.study.experiment import Experiment, Finding, Results
from experiments.study.readings import cna, of_answers
from experiments.study.reporting import excludes_zero, interval
from experiments.study.settings import Study

SIGNS = {"abs": "either sign", "positive": "more active", "negative": "less active"}


def conditions(study: Study) -> Conditions:
    """The paper's ablation with each reading of the difference, at two sizes."""
    return {
        f"{name}, {fraction:.2%}": (cna(study, study.discovery, sign=sign, fraction=fraction), 0)
        for fraction in sorted({study.fraction, max(study.ranking_fractions)})
        for sign, name in SIGNS.items()
    }


def found(results: Results) -> Iterator[Finding]:
    """Refusals with each reading, and which of them change refusals beyond chance."""
    for subject, before, after in ablated(results, conditions(results.study)):
        yield from ablation_rows(subject, before, after)
        changes = {name: seen.refusals_since(before) for name, seen in after.items()}
        parts = [f"{name} {interval(value, share=True)}" for name, value in changes.items()]
        clear = [name for name, value in changes.items() if excludes_zero(value)]
        yield (
            f"{subject.label}: ablation changes the share refused by {'; '.join(parts)}. Beyond "
            f"chance: {'; '.join(clear) if clear else 'none of them'}."
        )


EXPERIMENT = Experiment(
    "settle_sign",
    "Do the neurons that are more active on harmful requests carry refusals, or the less active "
    "ones?",
    ablation_cells(conditions),
    found,
    lambda study, sources: (
        "the paper ranks by magnitude and does not take the signs apart",
        *of_answers(study, sources, study.discovery),
    ),
    readings=(),
)
