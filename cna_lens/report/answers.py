"""What ablation did to answers, beside what it did to them with random neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from cna_lens.metrics.conditions import Answered
from cna_lens.report.pictures import can_draw, picture
from cna_lens.report.sections import Picture, Section
from cna_lens.report.verdict import verdicts
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.statistics import Estimate, mcnemar, paired_bootstrap


def answers_section(name: str, answered: Sequence[Answered]) -> Section:
    """Rates beside the control's, paired tests against the unsteered model, and a figure."""
    kinds = dict.fromkeys(each.kind for each in answered)
    of_kind = {kind: [each for each in answered if each.kind == kind] for kind in kinds}
    said = [verdicts(each) for each in of_kind.values() if _is_paired(each)]
    return Section(
        f"Answers: {name}",
        lead=tuple(text for texts in said for text in texts),
        facts=(
            ("refused", "the answer opens with a refusal; 95 % Wilson interval"),
            ("quality", "1 less the share of repeated 4-word sequences; 95 % bootstrap interval"),
            ("p", "exact McNemar test against the unsteered model, not corrected for many tests"),
        ),
        pictures=_pictures(answered),
        tables=tuple(table for table in (_rates(answered), _changes(of_kind)) if table.rows),
        caveats=tuple(_caveats(of_kind)),
    )


def _pictures(answered: Sequence[Answered]) -> tuple[Picture, ...]:
    if not can_draw():
        return ()
    from cna_lens.viz.figures.answers import answers

    return (picture(answers(answered)),)


def _unsteered(conditions: Sequence[Answered]) -> Answered | None:
    found = [each for each in conditions if each.is_unsteered]
    return found[0] if len(found) == 1 and _is_paired(conditions) else None


def _is_paired(conditions: Sequence[Answered]) -> bool:
    asked = [tuple(r.prompt_id for r in each.evaluation.records) for each in conditions]
    return len(set(asked)) == 1


def _rates(answered: Sequence[Answered]) -> Table:
    return Table(
        "Answers under each condition",
        ("prompts", "condition", "refused", "quality", "median of words"),
        tuple(
            (
                Cell.of(each.kind),
                Cell.of(each.condition),
                Cell.of(each.evaluation.refusal_rate),
                Cell.of(each.evaluation.quality),
                Cell.of(median(record.words for record in each.evaluation.records), "g"),
            )
            for each in answered
        ),
    )


def _changes(of_kind: Mapping[str, Sequence[Answered]]) -> Table:
    return Table(
        "Changes since the unsteered model, prompt by prompt",
        (
            "prompts",
            "condition",
            "no longer refused",
            "newly refused",
            "McNemar p",
            "change of quality",
        ),
        tuple(
            _change(before, each)
            for conditions in of_kind.values()
            if (before := _unsteered(conditions)) is not None
            for each in conditions
            if not each.is_unsteered
        ),
    )


def _change(before: Answered, after: Answered) -> tuple[Cell, ...]:
    refused = before.evaluation.refused, after.evaluation.refused
    pairs = list(zip(*refused, strict=True))
    return (
        Cell.of(after.kind),
        Cell.of(after.condition),
        Cell.of(pairs.count((True, False))),
        Cell.of(pairs.count((False, True))),
        Cell.of(mcnemar(*refused), ".2g"),
        Cell.of(_quality_change(before, after)),
    )


def _quality_change(before: Answered, after: Answered) -> Estimate | None:
    one, other = (
        [record.scores.get("quality") for record in each.evaluation.records]
        for each in (before, after)
    )
    known = any(None not in pair for pair in zip(one, other, strict=True))
    return paired_bootstrap(one, other) if known else None


def _caveats(of_kind: Mapping[str, Sequence[Answered]]) -> list[str]:
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
        if before is None:
            continue
        for each in conditions:
            change = _quality_change(before, each)
            if change is not None and change.high is not None and change.high < 0:
                found.append(
                    f"With {each.condition} the quality of answers to {kind} prompts falls "
                    f"({change}): fewer refusals may be more babble."
                )
    return found
