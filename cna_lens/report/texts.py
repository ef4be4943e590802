"""Answers whose text the user kept, and named for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.report.sections import Section
from cna_lens.results.rendering import Cell, Table


@dataclass(frozen=True)
class Texts:
    """Prompts and answers of a file that `--keep-text` wrote.

    Attributes:
        notice: the first line of the file.
        answers: each prompt with its answer.
    """

    notice: str
    answers: tuple[tuple[str, str], ...]

    @classmethod
    def from_records(cls, notice: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Texts:
        """Restore the lines that `write_answers` wrote."""
        pairs = [(str(row["prompt"]), str(row["answer"])) for row in rows]
        return cls(str(notice["notice"]), tuple(pairs))


def texts_section(name: str, texts: Texts) -> Section:
    """The texts in a table, after the notice of their file."""
    return Section(
        f"Texts: {name}",
        lead=(texts.notice,),
        tables=(
            Table(
                "Answers",
                ("prompt", "answer", "refused"),
                tuple(
                    (Cell.of(prompt), Cell.of(answer), Cell.of("yes" if is_refusal(answer) else ""))
                    for prompt, answer in texts.answers
                ),
            ),
        ),
        caveats=("This report holds full answers; the notice of their file applies to it too.",),
    )
