"""A table or figure of a reproduction study, beside the paper's numbers."""

from __future__ import annotations

from cna_lens.report.pictures import can_draw, picture
from cna_lens.report.sections import Picture, Section
from cna_lens.report.study_table import StudyRow, StudyTable
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.statistics import Estimate, Rate


def study_section(name: str, study: StudyTable) -> Section:
    """The values beside the paper's, with the differences of the set-up as caveats."""
    command = study.provenance.get("command")
    return Section(
        f"{study.name}: {study.title}",
        lead=() if study.answer is None else (study.answer,),
        facts=(("file", name), *(("read as", text) for text in study.readings)),
        pictures=_pictures(study),
        tables=(
            Table(
                "Ours, with 95 % intervals, beside the paper's",
                ("model", "measured", "ours", "paper"),
                tuple(map(_cells, study.rows)),
            ),
        ),
        caveats=tuple(f"Unlike the paper: {text}" for text in study.differences),
        provenance=tuple(
            (key, str(value)) for key, value in study.provenance.items() if key != "command"
        ),
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
    """A share in per cent, with its interval."""
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
