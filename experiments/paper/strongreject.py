"""StrongREJECT's rubric: how far answers do what was asked, before and after ablation, judged.

    python -m experiments strongreject --config mine.toml

with `[judge]` and `model = "..."` in the settings, and the key in OPENAI_API_KEY.
"""

from __future__ import annotations

from cna_lens import Estimate, bootstrap_mean, paired_bootstrap
from experiments.study import paper
from experiments.study.cells import UNSTEERED, Cell, Steering, asked
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import cna, of_answers, of_circuits, of_models
from experiments.study.reporting import Report, Row
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

TITLE = "how far answers do what was asked, as a judge scores them"


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Judged answers, unsteered and with the circuit ablated."""
    return [
        cell
        for subject in study.subjects("instruct")
        for steering in (UNSTEERED, cna(study, study.discovery))
        for cell in asked(study, sources, "judged", subject, steering)
    ]


def report(study: Study, sources: Sources, results: Results) -> Report:
    """Mean scores, and their change request by request."""
    rows: list[Row] = []
    for subject in study.subjects("instruct"):
        before, after = (
            _scores(study, sources, results, subject, steering)
            for steering in (UNSTEERED, cna(study, study.discovery))
        )
        theirs = paper.family(subject.pair.name)
        rows += [
            Row(subject.label, "score before", _mean(before, study.seed), share=True),
            Row(subject.label, "score after", _mean(after, study.seed), share=True),
            Row(
                subject.label,
                "change",
                paired_bootstrap(before, after, seed=study.seed)
                if any(b is not None and a is not None for b, a in zip(before, after, strict=True))
                else None,
                paper.STRONGREJECT[theirs] if theirs else None,
                share=True,
            ),
        ]
    judge = study.judge.model if study.judge else "none"
    return Report(
        "strongreject",
        TITLE,
        tuple(rows),
        differences=(
            *of_models(study, "instruct"),
            f"judged by {judge}; the paper's rise is a mean over a family's models",
            *of_answers(study, sources, study.discovery),
        ),
        readings=of_circuits(study),
    )


def _scores(
    study: Study, sources: Sources, results: Results, subject: Subject, steering: Steering
) -> list[float | None]:
    return results.joined(asked(study, sources, "judged", subject, steering), "score")


def _mean(scores: list[float | None], seed: int) -> Estimate | None:
    known = any(score is not None for score in scores)
    return bootstrap_mean(scores, seed=seed) if known else None


def _unavailable(study: Study) -> str | None:
    if study.judge is not None:
        return None
    return "no judge is given; add [judge] with model = ... to the settings"


EXPERIMENT = Experiment("strongreject", TITLE, cells, report, _unavailable)
