"""What ablation did to answers, beside what it did to them with random neurons."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.metrics import Answered
from cna_lens.rendering import Cell, Table
from cna_lens.report.pictures import can_draw, picture
from cna_lens.report.sections import Picture, Section
from cna_lens.report.verdict import verdict
from cna_lens.statistics import mcnemar, paired_bootstrap
from cna_lens.types import Estimate

COLUMNS = (
    "prompts",
    "condition",
    "refused",
    "no longer refused",
    "newly refused",
    "McNemar p",
    "quality",
    "change of quality",
    "words, median",
)


def answers_section(name: str, answered: Sequence[Answered]) -> Section:
    """Rates beside the control's, paired tests against the unsteered model, and a figure."""
    kinds = dict.fromkeys(each.kind for each in answered)
    of_kind = {kind: [each for each in answered if each.kind == kind] for kind in kinds}
    compared = {kind: (_unsteered(conditions), conditions) for kind, conditions in of_kind.items()}
    said = [verdict(each) for each in of_kind.values() if _is_paired(each)]
    return Section(
        f"Answers: {name}",
        lead=tuple(text for text in said if text),
        facts=(
            ("refused", "the answer opens with a refusal; 95 % Wilson interval"),
            ("quality", "1 less the share of repeated 4-word sequences; 95 % bootstrap interval"),
            ("p", "exact McNemar test against the unsteered model, not corrected for many tests"),
        ),
        pictures=_pictures(answered),
        tables=(
            Table(
                "Answers under each condition",
                COLUMNS,
                tuple(
                    _row(before, each)
                    for before, conditions in compared.values()
                    for each in conditions
                ),
            ),
        ),
        caveats=tuple(_caveats(of_kind)),
    )


def _pictures(answered: Sequence[Answered]) -> tuple[Picture, ...]:
    if not can_draw():
        return ()
    from cna_lens.viz import answers

    return (picture(answers(answered)),)


def _unsteered(conditions: Sequence[Answered]) -> Answered | None:
    found = [each for each in conditions if each.is_unsteered]
    return found[0] if len(found) == 1 and _is_paired(conditions) else None


def _is_paired(conditions: Sequence[Answered]) -> bool:
    asked = [tuple(r.prompt_id for r in each.evaluation.records) for each in conditions]
    return len(set(asked)) == 1


def _row(before: Answered | None, after: Answered) -> tuple[Cell, ...]:
    evaluation = after.evaluation
    words = sorted(record.words for record in evaluation.records)
    changes = (Cell.of(None),) * 3
    if before is not None and not after.is_unsteered:
        pairs = list(zip(before.evaluation.refused, evaluation.refused, strict=True))
        changes = (
            Cell.of(pairs.count((True, False))),
            Cell.of(pairs.count((False, True))),
            Cell.of(mcnemar(before.evaluation.refused, evaluation.refused), ".2g"),
        )
    return (
        Cell.of(after.kind),
        Cell.of(after.condition),
        Cell.of(evaluation.refusal_rate),
        *changes,
        Cell.of(evaluation.quality),
        Cell.of(None if after.is_unsteered else _quality_change(before, after)),
        Cell.of(words[len(words) // 2]),
    )


def _quality_change(before: Answered | None, after: Answered) -> Estimate | None:
    if before is None:
        return None
    one, other = (
        [record.scores.get("quality") for record in each.evaluation.records]
        for each in (before, after)
    )
    known = any(None not in pair for pair in zip(one, other, strict=True))
    return paired_bootstrap(one, other) if known else None


def _caveats(of_kind: dict[str, list[Answered]]) -> list[str]:
    found = [
        "A refusal is told by how an answer opens. One that agrees and then says nothing of use "
        "counts as no refusal, and one that refuses in unusual words may be missed.",
    ]
    every = [each for conditions in of_kind.values() for each in conditions]
    smallest = min(len(each.evaluation) for each in every)
    if smallest < 100:
        found.append(f"With {smallest} answers a share is known to ± {98 / smallest**0.5:.0f} %.")
    if not any(each.is_unsteered for each in every):
        found.append("The unsteered model was not asked, so that nothing says what changed.")
    if not any(each.is_control for each in every):
        found.append("There is no control: changing any neurons may do the same.")
    else:
        found.append("The control is one random draw of neurons; another would differ a little.")
    for kind, conditions in of_kind.items():
        if not _is_paired(conditions):
            found.append(
                f"The conditions were asked different {kind} prompts, so that they are not "
                "compared prompt by prompt."
            )
        before = _unsteered(conditions)
        for each in conditions:
            change = _quality_change(before, each)
            if change is not None and change.high is not None and change.high < 0:
                found.append(
                    f"With {each.condition} the quality of answers to {kind} prompts falls "
                    f"({change}): fewer refusals may be more babble."
                )
    return found
