"""A table of a study: what was measured, beside the paper's number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cna_lens.evidence.curves import estimate_of
from cna_lens.results.statistics import Estimate, Rate


@dataclass(frozen=True)
class StudyRow:
    """One quantity of one model.

    Attributes:
        model: its name.
        quantity: what was measured.
        ours: the value; None if it was not measured.
        paper: the paper's value; None if the paper gives none.
        share: whether both are shares.
        at: its place on the figure's x axis, such as the strength.
        series: the line of the figure to which it belongs.
    """

    model: str
    quantity: str
    ours: Rate | Estimate | None
    paper: float | None
    share: bool
    at: float | None
    series: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> StudyRow:
        """Restore a row of the study's file."""
        ours = record["ours"]
        value = None if ours is None else _value(ours)
        return cls(
            model=str(record["model"]),
            quantity=str(record["quantity"]),
            ours=value,
            paper=_number(record["paper"]),
            share=bool(record["share"]) or isinstance(value, Rate),
            at=_number(record["at"]),
            series=str(record["series"]),
        )


@dataclass(frozen=True)
class StudyTable:
    """The file that `cna-lens reproduce` writes for a table, figure or question of the paper.

    Attributes:
        name: "table1", "settle_sign".
        title: what it shows.
        rows: the values.
        differences: how the set-up differs from the paper's.
        readings: how open points of the paper were interpreted.
        answer: to a question; None for a table or figure.
        provenance: command, date, seed, hashes.
    """

    name: str
    title: str
    rows: tuple[StudyRow, ...]
    differences: tuple[str, ...]
    readings: tuple[str, ...]
    answer: str | None
    provenance: Mapping[str, str | int]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> StudyTable:
        """Restore the content of the study's file NAME.json."""
        return cls(
            name=str(record["name"]),
            title=str(record["title"]),
            rows=tuple(map(StudyRow.from_record, record["rows"])),
            differences=tuple(map(str, record["differences"])),
            readings=tuple(map(str, record["readings"])),
            answer=None if record["answer"] is None else str(record["answer"]),
            provenance={str(name): value for name, value in record["provenance"].items()},
        )


def _value(record: Mapping[str, Any]) -> Rate | Estimate:
    if "missing" in record:
        return estimate_of(record)
    low, high = (record["value" if record[end] is None else end] for end in ("low", "high"))
    return Rate(float(record["value"]), float(low), float(high), int(record["n"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
