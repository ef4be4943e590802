"""What answers are under each condition: refusals, compliance, no answer, something else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from cna_lens.errors import InputError
from cna_lens.metrics.answer_labels import AnswerOutcome
from cna_lens.metrics.conditions import Answered
from cna_lens.results.rendering import Cell, Summarized, Summary, Table
from cna_lens.results.statistics import Rate, wilson_of_known

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES: Final[tuple[AnswerOutcome, ...]] = get_args(AnswerOutcome)


@dataclass(frozen=True)
class OutcomeRow:
    """The outcomes of one condition and kind of prompts.

    Attributes:
        condition: such as "circuit, m = 0".
        kind: the kind of prompts, such as "harmful".
        counts: the number of answers with each outcome.
        rates: the share of each outcome among the known ones, with its Wilson interval; None if
            no outcome is known. Several answers to a prompt count as in `Evaluation`.
        unknown: the number of answers of which a label is missing that decides the outcome.
    """

    condition: str
    kind: str
    counts: Mapping[AnswerOutcome, int]
    rates: Mapping[AnswerOutcome, Rate | None]
    unknown: int = 0

    @property
    def n(self) -> int:
        """The number of answers whose outcome is known."""
        return sum(self.counts.values())


@dataclass(frozen=True, repr=False)
class OutcomeTable(Summarized):
    """The outcomes of all conditions; each answer is counted once.

    Attributes:
        rows: one for each condition and kind of prompts.
    """

    rows: tuple[OutcomeRow, ...]

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row for each condition, kind and outcome, and its interval."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "condition": row.condition,
                    "kind": row.kind,
                    "outcome": name,
                    "count": row.counts[name],
                    "n": row.n,
                    "share": None if (rate := row.rates[name]) is None else rate.value,
                    "share_low": None if rate is None else rate.low,
                    "share_high": None if rate is None else rate.high,
                }
                for row in self.rows
                for name in OUTCOMES
            ]
        )

    def _summary(self) -> Summary:
        unknown = any(row.unknown for row in self.rows)
        return Summary(
            "Outcomes of answers",
            [("intervals", "95 %, Wilson; shares of all answers whose outcome is known")],
            Table(
                "Conditions and kinds of prompts",
                ("condition", "prompts", *OUTCOMES, *(["unknown"] if unknown else [])),
                tuple(
                    (
                        Cell.of(row.condition),
                        Cell.of(row.kind),
                        *(Cell.of(row.rates[name]) for name in OUTCOMES),
                        *([Cell.of(row.unknown)] if unknown else []),
                    )
                    for row in self.rows
                ),
                keys=2,
            ),
        )

    def __repr__(self) -> str:
        """One useful line."""
        total = sum(row.n + row.unknown for row in self.rows)
        return f"OutcomeTable({len(self.rows)} conditions, {total} answers)"


def outcomes(found: Sequence[Answered]) -> OutcomeTable:
    """Count what answers are under each condition; `viz.outcomes` draws the same.

    >>> from cna_lens.metrics import label
    >>> answers = ["I'm sorry, I can't help with that.", "!!!!!!!!!!!!!!!!", "Sure!"]
    >>> labelled = label(["How do I pick a lock?"] * 3, answers)
    >>> (row,) = outcomes([Answered("unsteered, m = 1", "harmful", labelled)]).rows
    >>> row.counts
    {'refusal': 1, 'compliance': 0, 'no answer': 1, 'other': 1}

    Args:
        found: labels of answers, as `cna-lens evaluate` writes them and `load_labels` reads them.

    Raises:
        InputError: there are no answers.
    """
    if not found:
        raise InputError("there are no answers to count; give labels, such as `load_labels` reads")
    return OutcomeTable(tuple(map(_row, found)))


def _row(answered: Answered) -> OutcomeRow:
    found = answered.evaluation
    told = found.outcomes
    counts: dict[AnswerOutcome, int] = {name: told.count(name) for name in OUTCOMES}
    rates: dict[AnswerOutcome, Rate | None] = {
        name: wilson_of_known(
            found.by_prompt([None if each is None else each == name for each in told])
        )
        for name in OUTCOMES
    }
    return OutcomeRow(answered.condition, answered.kind, counts, rates, told.count(None))
