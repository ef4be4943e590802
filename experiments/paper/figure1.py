"""Figure 1: refusals and quality against strength, mean and s.d. over instruct models.

python -m experiments figure1 --config smollm2
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, stdev

from cna_lens import Estimate
from experiments.study import paper
from experiments.study.cells import Cell
from experiments.study.experiment import Experiment, Results
from experiments.study.figures import lines
from experiments.study.outcomes import outcome
from experiments.study.readings import of_answers, of_caa, of_circuits
from experiments.study.reporting import Row, Value
from experiments.study.settings import Study
from experiments.study.sources import Sources
from experiments.study.sweep import methods, sweep_cells

EVERY = "mean over models, ± s.d."


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Both methods at every strength."""
    return sweep_cells(study, sources, study.subjects("instruct"), study.strengths)


def found(results: Results) -> Iterator[Row]:
    """Each model's line, and where there are several their mean, as the paper draws it."""
    study = results.study
    subjects = study.subjects("instruct")
    for method, steering in methods(study).items():
        for strength in study.strengths:
            over: dict[str, list[Value]] = {"refused": [], "quality": []}
            for subject in subjects:
                seen = outcome(results, subject, steering, strength)
                for name, value in zip(over, (seen.refusal_rate, seen.mean_quality), strict=True):
                    if value is not None:
                        over[name].append(value)
                    yield Row(
                        subject.label,
                        f"{name}, {method} {strength:g}",
                        value,
                        _theirs(subject.pair.name, method, name, strength),
                        at=strength,
                        series=f"{method}, {subject.pair.name}",
                    )
            for name, values in over.items():
                if len(subjects) > 1 and len(values) == len(subjects):
                    yield _over_models(values, method, name, strength)


def _theirs(name: str, method: str, quantity: str, strength: float) -> float | None:
    swept = paper.TABLE1.get(name)
    if swept is None or strength not in (0, 1):
        return None
    if strength == 0:
        return swept.unsteered if quantity == "refused" else None
    suffix = "_quality" if quantity == "quality" else ""
    return getattr(swept, f"{method.lower()}{suffix}")


def _over_models(values: list[Value], method: str, name: str, strength: float) -> Row:
    ours = [value.value for value in values]
    mean, deviation = fmean(ours), stdev(ours)
    theirs = [_theirs(each, method, name, strength) for each in paper.TABLE1]
    known = [value for value in theirs if value is not None]
    return Row(
        EVERY,
        f"{name}, {method} {strength:g}",
        Estimate(mean, mean - deviation, mean + deviation, len(ours)),
        fmean(known) if known else None,
        share=name == "refused",
        at=strength,
        series=f"{method}, mean ± s.d.",
    )


EXPERIMENT = Experiment(
    "figure1",
    "refusals and quality against strength, instruct models",
    cells,
    found,
    lambda study, sources: (
        f"mean over {len(study.subjects('instruct'))} model(s), the paper's over "
        f"{len(paper.TABLE1)}; its values at strengths 0 and 1 are those of its table 1, at others "
        "it prints none",
        *of_answers(study, sources, study.small_discovery),
    ),
    readings=(of_circuits, of_caa),
    draw=lines("refused", "quality", across="strength"),
)
