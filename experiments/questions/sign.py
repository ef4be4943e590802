"""Do the neurons that are more active on harmful requests carry refusals, or the less active ones?

python -m experiments settle_sign --config smollm2
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
from experiments.study.readings import cna, of_answers, of_models
from experiments.study.reporting import Report, Row, excludes_zero, interval
from experiments.study.settings import Study
from experiments.study.sources import Sources

QUESTION = (
    "Do the neurons that are more active on harmful requests carry refusals, or the less active "
    "ones?"
)
SIGNS = {"abs": "either sign", "positive": "more active", "negative": "less active"}


def _conditions(study: Study) -> Conditions:
    return {
        f"{name}, {fraction:.2%}": (cna(study, study.discovery, sign=sign, fraction=fraction), 0)
        for fraction in sorted({study.fraction, max(study.ranking_fractions)})
        for sign, name in SIGNS.items()
    }


def cells(study: Study, sources: Sources) -> list[Cell]:
    """The paper's ablation with each reading of the difference, at two sizes."""
    return ablation_cells(study, sources, _conditions(study))


def report(study: Study, sources: Sources, results: Results) -> Report:
    """Refusals with each reading, and which of them change refusals beyond chance."""
    rows: list[Row] = []
    answers: list[str] = []
    for subject in study.subjects("instruct"):
        before, after = outcomes(study, sources, results, subject, _conditions(study))
        rows += ablation_rows(subject, before, after)
        changes = {name: seen.refusals_since(before) for name, seen in after.items()}
        parts = [f"{name} {interval(value, share=True)}" for name, value in changes.items()]
        clear = [name for name, value in changes.items() if excludes_zero(value)]
        answers.append(
            f"{subject.label}: ablation changes the share refused by {'; '.join(parts)}. Beyond "
            f"chance: {'; '.join(clear) if clear else 'none of them'}."
        )
    return Report(
        "settle_sign",
        QUESTION,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            "the paper ranks by magnitude and does not take the signs apart",
            *of_answers(study, sources, study.discovery),
        ),
        answer=" ".join(answers),
    )


EXPERIMENT = Experiment("settle_sign", QUESTION, cells, report)
