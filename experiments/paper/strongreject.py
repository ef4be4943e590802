"""StrongREJECT's rubric: a judge's scores of the answers, before and after ablation.

    python -m experiments strongreject --config mine.toml

with `[judge]` and `model = "..."` in the settings, and the key in OPENAI_API_KEY.
"""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens import Estimate, bootstrap_mean, paired_bootstrap
from experiments.study import paper
from experiments.study.cells import UNSTEERED, Cell, Steering, asked
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import cna, of_answers
from experiments.study.reporting import Row
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources


def _conditions(study: Study) -> tuple[Steering, Steering]:
    return UNSTEERED, cna(study, study.discovery)


def _of(study: Study, sources: Sources, subject: Subject, steering: Steering) -> list[Cell]:
    return asked(study, sources, "judged", subject, steering)


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Judged answers, unsteered and with the circuit ablated."""
    return [
        cell
        for subject in study.subjects("instruct")
        for steering in _conditions(study)
        for cell in _of(study, sources, subject, steering)
    ]


def found(results: Results) -> Iterator[Row]:
    """Mean scores, and their change request by request."""
    study = results.study
    for subject in study.subjects("instruct"):
        before, after = (
            results.joined(_of(study, results.sources, subject, steering), "score")
            for steering in _conditions(study)
        )
        theirs = paper.family(subject.pair.name)
        yield Row(subject.label, "score before", _mean(before, study.seed), share=True)
        yield Row(subject.label, "score after", _mean(after, study.seed), share=True)
        yield Row(
            subject.label,
            "change",
            paired_bootstrap(before, after, seed=study.seed)
            if any(b is not None and a is not None for b, a in zip(before, after, strict=True))
            else None,
            paper.STRONGREJECT[theirs] if theirs else None,
            share=True,
        )


def _mean(scores: list[float | None], seed: int) -> Estimate | None:
    known = any(score is not None for score in scores)
    return bootstrap_mean(scores, seed=seed) if known else None


def _unavailable(study: Study) -> str | None:
    if study.judge is not None:
        return None
    return "no judge is given; add [judge] with model = ... to the settings"


EXPERIMENT = Experiment(
    "strongreject",
    "how far answers do what was asked, as a judge scores them",
    cells,
    found,
    lambda study, sources: (
        f"judged by {study.judge.model if study.judge else 'none'}; the paper's rise is a mean "
        "over a family's models",
        *of_answers(study, sources, study.discovery),
    ),
    unavailable=_unavailable,
)
