"""A table or figure of a reproduction study, beside the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cna_lens.report.pictures import can_draw, picture
from cna_lens.report.sections import Picture, Section
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.statistics import Estimate, Rate


@dataclass(frozen=True)
class StudyRow:
    """One quantity of one model.

    Attributes:
        model: its name.
        quantity: what was measured.
        ours: the value; None where there is none.
        paper: the paper's value, None where it gives none.
        share: whether both are shares.
        at: where it stands in a figure, such as the strength.
        series: the figure's line it belongs to.
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
        """A row of the study's file."""
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
    """What `cna-lens reproduce` writes for a table, a figure or a question of the paper.

    Attributes:
        name: "table1", "settle_sign".
        title: what it shows.
        rows: the values.
        differences: how the set-up differs from the paper's.
        readings: how what the paper leaves open was read.
        answer: to the question, where it is one.
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
        """What the study's file NAME.json holds."""
        return cls(
            name=str(record["name"]),
            title=str(record["title"]),
            rows=tuple(map(StudyRow.from_record, record["rows"])),
            differences=tuple(map(str, record["differences"])),
            readings=tuple(map(str, record["readings"])),
            answer=None if record["answer"] is None else str(record["answer"]),
            provenance={str(name): value for name, value in record["provenance"].items()},
        )


def study_section(name: str, study: StudyTable) -> Section:
    """The values beside the paper's; where the set-up differs is what to bear in mind."""
    facts = [(key, str(value)) for key, value in study.provenance.items() if key != "command"]
    readings = [("read as", text) for text in study.readings]
    command = study.provenance.get("command")
    return Section(
        f"{study.name}: {study.title}",
        lead=() if study.answer is None else (study.answer,),
        facts=(("file", name), *facts, *readings),
        pictures=_pictures(study),
        tables=(
            Table(
                "Ours, with 95 % intervals, beside the paper's",
                ("model", "measured", "ours", "paper"),
                tuple(map(_cells, study.rows)),
            ),
        ),
        caveats=tuple(f"Unlike the paper: {text}" for text in study.differences),
        commands=() if command is None else (str(command),),
    )


def _cells(row: StudyRow) -> tuple[Cell, ...]:
    paper = row.paper
    theirs = None if paper is None else f"{100 * paper:.1f} %" if row.share else f"{paper:.3g}"
    return (
        Cell.of(row.model),
        Cell.of(row.quantity),
        Cell.of(row.ours) if row.ours is None or not row.share else _share(row.ours),
        Cell.of(None) if theirs is None else Cell(theirs, paper),
    )


def _share(value: Rate | Estimate) -> Cell:
    """In per cent, also where the interval was bootstrapped."""
    ends = [100 * end for end in (value.low, value.high) if end is not None]
    interval = f" [{ends[0]:.1f}, {ends[1]:.1f}]" if len(ends) == 2 else ""
    missing = getattr(value, "missing", 0)
    left_out = f", {missing} missing" if missing else ""
    return Cell(f"{100 * value.value:.1f} %{interval} n={value.n}{left_out}", value.value)


def _pictures(study: StudyTable) -> tuple[Picture, ...]:
    if not can_draw():
        return ()
    from cna_lens.report.study_figures import study_figures

    return tuple(map(picture, study_figures(study)))


def _value(record: Mapping[str, Any]) -> Rate | Estimate:
    value, low, high = (_number(record[name]) for name in ("value", "low", "high"))
    if value is None:
        raise ValueError("a value is missing")
    if "missing" not in record:
        low, high = (value if end is None else end for end in (low, high))
        return Rate(value, low, high, int(record["n"]))
    return Estimate(value, low, high, int(record["n"]), int(record["missing"]))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
