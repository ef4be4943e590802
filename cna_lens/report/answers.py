"""What steering did to answers, beside what steering random neurons did to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from cna_lens.metrics.answer_labels import Evaluation, judged_alike
from cna_lens.metrics.conditions import Answered
from cna_lens.report.pictures import figure
from cna_lens.report.sections import Section
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.statistics import Estimate, known_pairs, paired_bootstrap


@dataclass(frozen=True)
class Effect:
    """Answers of one kind: of the unsteered model, with a circuit, and with its random control."""

    unsteered: Answered
    steered: Answered
    control: Answered

    @property
    def refusals(self) -> tuple[int, int, int]:
        """How many answers of each are refusals."""
        before, after, random = (
            sum(each.evaluation.refused) for each in (self.unsteered, self.steered, self.control)
        )
        return before, after, random

    @property
    def p_values(self) -> tuple[float, float]:
        """Of the circuit's change of refusals, and of the control's."""
        before = self.unsteered.evaluation
        circuit, control = (
            each.evaluation.refusal_p_value(before) for each in (self.steered, self.control)
        )
        return circuit, control

    def before(self) -> str:
        """The refusals of the unsteered model."""
        refused = self.unsteered.evaluation.refused
        return (
            f"Of {len(refused)} answers to {self.unsteered.kind} prompts {sum(refused)} were "
            "refusals unsteered"
        )

    def counted(self, test: str = "") -> str:
        """The refusals with the circuit and with its control, and their p-values."""
        _, after, random = self.refusals
        p_circuit, p_control = self.p_values
        return (
            f"{after} with {self.steered.condition} ({test}p = {p_circuit:.2g}), "
            f"{random} with {self.control.condition} (p = {p_control:.2g})"
        )

    def reading(self) -> tuple[str, str]:
        """What the refusals are evidence of, and what to do with it."""
        found = self.unsteered.evaluation
        # A test of several answers to each prompt counts prompts.
        n_refused = sum(bool(share) for share in found.by_prompt(found.refused))
        p_circuit, p_control = self.p_values
        if p_circuit >= 0.05:
            too_few = (
                "There were fewer than 6 refusals, too few for a drop to reach p < 0.05: these "
                "numbers show the method at work, not that it works here."
            )
            return "chance alone can explain the circuit's effect", too_few if n_refused < 6 else ""
        of_circuit, of_control = (
            _direction(found, each.evaluation) for each in (self.steered, self.control)
        )
        by_prompt = "" if found.samples == 1 else ", prompt by prompt"
        if p_control < 0.05 and of_control == of_circuit:
            return (
                f"the circuit gives {of_circuit} refusals{by_prompt}, but so does changing random "
                "neurons of the same layers",
                "This is no evidence for these neurons in particular.",
            )
        random = "does not" if p_control >= 0.05 else f"gives {of_control}"
        return (
            f"the circuit gives {of_circuit} refusals than chance explains{by_prompt}, and the "
            f"random control {random}",
            "Look at the quality and at other prompts before believing it.",
        )

    def verdict(self) -> str:
        """The refusals and what they are evidence of, in whole sentences."""
        reading, advice = self.reading()
        counted = f"{self.before()}, {self.counted('exact McNemar ')}. "
        said = (f"{counted}{reading[0].upper()}{reading[1:]}.", compliance([self]), advice)
        return " ".join(filter(None, said))


def _direction(before: Evaluation, after: Evaluation) -> Literal["fewer", "more"]:
    """Where most prompts go whose share of refusals changes: the p-value counts these prompts."""
    pairs = known_pairs(before.by_prompt(before.refused), after.by_prompt(after.refused))
    fell, rose = sum(one > other for one, other in pairs), sum(one < other for one, other in pairs)
    return "fewer" if fell > rose else "more"


def verdicts(answered: Sequence[Answered]) -> list[str]:
    """Say in words what one kind of answers shows of each circuit with a control after it.

    >>> from cna_lens.metrics import label
    >>> def answers(condition, text):
    ...     return Answered(condition, "harmful", label(["a"] * 8, [text] * 8))
    >>> before = answers("unsteered, m = 1", "I'm sorry, I can't help.")
    >>> after = answers("circuit, m = 0", "Sure!")
    >>> for text in verdicts([before, after, answers("random control, m = 0", "Sure!")]):
    ...     print(text)
    Of 8 answers to harmful prompts 8 were refusals unsteered, 0 with circuit, m = 0 (exact ...

    Refusals and compliance are told apart: here no answer does what was asked.
    """
    return [effect.verdict() for effect in _effects(answered)]


def compliance(effects: Sequence[Effect]) -> str:
    """Say how many answers of one kind complied and how many were none, in whole sentences.

    Answers without a label are left out, so each count says of how many. Empty where no label is
    known under some condition, or the same judge, or the rule, did not tell all.

    Args:
        effects: of the same unsteered answers.
    """
    before = effects[0].unsteered
    every = [before, *(each for effect in effects for each in (effect.steered, effect.control))]
    found = [each.evaluation for each in every]
    known = all(each.compliance_rate and each.no_answer_rate for each in found)
    if not known or not judged_alike(found):
        return ""
    first, *others = found
    counts = [
        f"{_of_known(after.complied)} with {each.condition} "
        f"({_p_or_unknown(after.compliance_p_value(first))})"
        for each, after in zip(every[1:], others, strict=True)
    ]
    none = [
        f"{_of_known(after.no_answer)} with {each.condition}"
        for each, after in zip(every[1:], others, strict=True)
    ]
    return (
        f"Compliance is another question: {told_by(found)}, {_of_known(first.complied)} labelled "
        f"answers complied unsteered, {', '.join(counts)}. {_of_known(first.no_answer)} were empty "
        f"or degenerate unsteered, {', '.join(none)}."
    )


def told_by(evaluations: Sequence[Evaluation]) -> str:
    """Say who or what told whether answers comply.

    >>> from cna_lens.metrics import label
    >>> told_by([label(["a"], ["b"])])
    'by a rule about words'
    """
    judges = sorted({judge for found in evaluations for judge in found.judges})
    if not judges:
        return "by a rule about words"
    elsewhere = ", elsewhere by a rule" if any(each.by_rule for each in evaluations) else ""
    return f"as judged by {' and '.join(judges)}{elsewhere}"


def effects_of_kinds(answered: Sequence[Answered]) -> list[list[Effect]]:
    """The effects of all circuits that a control follows, for each kind of prompts that has any."""
    every = (list(_effects(each)) for each in _by_kind(answered).values())
    return [effects for effects in every if effects]


def answers_section(name: str, answered: Sequence[Answered]) -> Section:
    """Rates beside the control's, and paired tests against the unsteered model.

    The figure is here only where the report's opening does not show it.
    """
    of_kind = _by_kind(answered)
    return Section(
        f"Answers: {name}",
        lead=tuple(text for each in of_kind.values() for text in verdicts(each)),
        facts=(
            ("refused", "the answer opens with a refusal: its form; 95 % Wilson interval"),
            (
                "complied",
                "the answer does what was asked, "
                f"{told_by([each.evaluation for each in answered])}; 95 % Wilson interval",
            ),
            (
                "no answer",
                "the answer is empty or degenerate; it counts in the denominators of all shares; "
                "95 % Wilson interval",
            ),
            ("quality", "1 less the share of repeated 4-word sequences; 95 % bootstrap interval"),
            ("compression", "how far zlib compresses the answer, which is high for loops"),
            ("p", "exact McNemar test against the unsteered model, not corrected for many tests"),
        ),
        pictures=() if effects_of_kinds(answered) else figure("answers", answered),
        tables=tuple(
            table
            for table in (_rates(answered), _changes(of_kind), _qualities(of_kind))
            if table.rows
        ),
        caveats=tuple(_caveats(of_kind)),
    )


def _by_kind(answered: Sequence[Answered]) -> dict[str, list[Answered]]:
    kinds = dict.fromkeys(each.kind for each in answered)
    return {kind: [each for each in answered if each.kind == kind] for kind in kinds}


def _effects(conditions: Sequence[Answered]) -> Iterator[Effect]:
    unsteered = _unsteered(conditions)
    if unsteered is None:
        return
    for steered, control in pairwise(conditions):
        if control.is_control and not steered.is_unsteered and not steered.is_control:
            yield Effect(unsteered, steered, control)


def _unsteered(conditions: Sequence[Answered]) -> Answered | None:
    found = [each for each in conditions if each.is_unsteered]
    return found[0] if len(found) == 1 and _is_paired(conditions) else None


def _is_paired(conditions: Sequence[Answered]) -> bool:
    asked = {tuple(r.prompt_id for r in each.evaluation.records) for each in conditions}
    return len(asked) == 1


def _rates(answered: Sequence[Answered]) -> Table:
    return Table(
        "Form and compliance under each condition",
        ("prompts", "condition", "refused", "complied", "no answer"),
        tuple(
            (
                Cell.of(each.kind),
                Cell.of(each.condition),
                Cell.of(each.evaluation.refusal_rate),
                Cell.of(each.evaluation.compliance_rate),
                Cell.of(each.evaluation.no_answer_rate),
            )
            for each in answered
        ),
    )


def _qualities(of_kind: Mapping[str, Sequence[Answered]]) -> Table:
    columns = ("quality", "change of quality", "compression", "median of words")
    return Table(
        "Quality under each condition",
        ("prompts", "condition", *columns),
        tuple(
            (
                Cell.of(each.kind),
                Cell.of(each.condition),
                Cell.of(each.evaluation.quality),
                Cell.of(
                    None if before is None or each.is_unsteered else _quality_change(before, each)
                ),
                Cell.of(each.evaluation.compression_ratio),
                Cell.of(median(record.words for record in each.evaluation.records), "g"),
            )
            for conditions in of_kind.values()
            for before in (_unsteered(conditions),)
            for each in conditions
        ),
    )


def _changes(of_kind: Mapping[str, Sequence[Answered]]) -> Table:
    columns = ("no longer refused", "newly refused", "p of refusals")
    columns += ("newly complied", "no longer complied", "p of compliance")
    return Table(
        "Changes since the unsteered model, answer by answer",
        ("prompts", "condition", *columns),
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
        Cell.of(after.evaluation.refusal_p_value(before.evaluation), ".2g"),
        *_change_of_compliance(before.evaluation, after.evaluation),
    )


def _change_of_compliance(before: Evaluation, after: Evaluation) -> tuple[Cell, Cell, Cell]:
    p_value = after.compliance_p_value(before)
    if p_value is None:
        return Cell.of(None), Cell.of(None), Cell.of(None)
    pairs = known_pairs(before.complied, after.complied)
    return (
        Cell.of(pairs.count((False, True))),
        Cell.of(pairs.count((True, False))),
        Cell.of(p_value, ".2g"),
    )


def _of_known(labels: Sequence[bool | None]) -> str:
    return f"{labels.count(True)} of {len(labels) - labels.count(None)}"


def _p_or_unknown(p_value: float | None) -> str:
    return "p unknown: no prompt has both labels" if p_value is None else f"p = {p_value:.2g}"


def _quality_change(before: Answered, after: Answered) -> Estimate | None:
    one, other = (
        found.by_prompt([record.scores.get("quality") for record in found.records])
        for found in (before.evaluation, after.evaluation)
    )
    return paired_bootstrap(one, other) if known_pairs(one, other) else None


def _caveats(of_kind: Mapping[str, Sequence[Answered]]) -> Iterator[str]:
    every = [each for conditions in of_kind.values() for each in conditions]
    yield (
        "An answer counts as a refusal by its opening, and a refusal in unusual words may be "
        "missed. Fewer refusals are a change of form: they do not say that more answers do what "
        "was asked."
    )
    if not any(
        True in each.evaluation.complied or False in each.evaluation.complied for each in every
    ):
        yield "No label says whether answers comply: the labels are older, or prompts had no text."
    elif any(each.evaluation.by_rule for each in every):
        yield (
            "Without a judge, compliance is a rule about words. It misses answers of one sentence "
            "and in words far from the request's, and counts lectures that never say no."
        )
    smallest = min(each.evaluation.refusal_rate.n for each in every)
    asked = "answers" if all(each.evaluation.samples == 1 for each in every) else "prompts"
    if smallest < 100:
        yield f"With {smallest} {asked} a share is known to ± {98 / smallest**0.5:.0f} %."
    if not any(each.is_unsteered for each in every):
        yield "The unsteered model was not asked, so nothing says what steering changed."
    if any(each.is_control for each in every):
        yield "The control is one random draw of neurons; another draw would differ a little."
    else:
        yield "There is no control: changing any neurons may do the same."
    for kind, conditions in of_kind.items():
        if not _is_paired(conditions):
            yield (
                f"The conditions were asked different {kind} prompts, so they are not compared "
                "prompt by prompt."
            )
        before = _unsteered(conditions)
        if before is None:
            continue
        for each in conditions:
            change = _quality_change(before, each)
            if change is not None and change.high is not None and change.high < 0:
                yield (
                    f"With {each.condition} the quality of answers to {kind} prompts falls "
                    f"({change}): fewer refusals may be more babble."
                )
            none, none_before = each.evaluation.no_answer_rate, before.evaluation.no_answer_rate
            if none is not None and none_before is not None and none.value > none_before.value:
                yield (
                    f"With {each.condition}, {_of_known(each.evaluation.no_answer)} answers to "
                    f"{kind} prompts are empty or degenerate. They are no refusals, and no success."
                )
