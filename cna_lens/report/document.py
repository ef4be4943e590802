"""A report: its sections from results, and the file they become."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cna_lens.errors import InputError
from cna_lens.metrics.answer_labels import Evaluation
from cna_lens.metrics.conditions import UNNAMED, Answered
from cna_lens.report.answers import answers_section
from cna_lens.report.circuits import STEERED_ANSWERS, circuit_section
from cna_lens.report.comparisons import comparison_section
from cna_lens.report.evidences import SavedEvidence, evidence_section, kind_of
from cna_lens.report.opening import opening_section
from cna_lens.report.page import page_html
from cna_lens.report.pictures import can_draw
from cna_lens.report.reading import KNOWN, Found, Named, Result, read_results
from cna_lens.report.runs import Run, run_section
from cna_lens.report.sections import Section
from cna_lens.report.studies import study_section
from cna_lens.report.study_table import StudyTable
from cna_lens.report.texts import Texts, texts_section
from cna_lens.results.circuit import Circuit
from cna_lens.results.files import write_atomically
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Cell, Table
from cna_lens.steering.comparison.table import Comparison


@dataclass(frozen=True)
class Report:
    """Sections under a title, as one HTML file.

    Attributes:
        title: of the file.
        sections: in their order.
    """

    title: str
    sections: tuple[Section, ...]

    def html(self) -> str:
        """The file's text; the same report gives the same text."""
        return page_html(self.title, self.sections, self._scripts())

    def save(self, path: str | Path) -> Path:
        """Write the file, which a browser opens without a network."""
        write_atomically(Path(path), self.html())
        return Path(path)

    def with_section(self, section: Section) -> Report:
        """The same report with one more section, such as `token_section`."""
        return Report(self.title, (*self.sections, section))

    def __repr__(self) -> str:
        """One useful line."""
        return f"Report({self.title!r}, {len(self.sections)} sections)"

    def _scripts(self) -> Sequence[str]:
        if not any(section.views for section in self.sections):
            return ()
        from cna_lens.viz.pages.pages import view_scripts

        return view_scripts()


def make_report(results: Mapping[str, Result] | Found, *, title: str = "cna_lens report") -> Report:
    """Make a report of results: the answer, the results with their caveats, how to reproduce them.

    It opens with what was found and what steering it did, where labels hold a circuit and its
    random control. Answers appear as labels and rates; their text appears only where a `Texts` is
    among the results. A caveat that another result answers is left out: a circuit beside a
    `Stability` has no caveat that its stability is unknown.

    >>> circuit = Circuit((Neuron(1, 3), Neuron(0, 2)), (2.5, -1.0), Layout((4, 4)))
    >>> report = make_report({"by hand": circuit})
    >>> report
    Report('cna_lens report', 1 sections)
    >>> report.sections[0].title
    'Circuit: by hand'

    Args:
        results: by the names that the report calls them; or what `read_results` found.
        title: of the file.

    Raises:
        InputError: there are no results, or one of them is no result.
    """
    found = results if isinstance(results, Found) else _found(results)
    if not found.results:
        raise InputError(f"there is nothing to report; give {KNOWN}")
    kinds = {_kind(each.result) for each in found.results}
    sections = [
        make(each.name, each.result)
        for kind, make in _makers(kinds).items()
        for each in found.results
        if isinstance(each.result, kind)
    ]
    opening = opening_section(
        [(each.name, each.result) for each in found.results if isinstance(each.result, Circuit)],
        [(each.name, each.result) for each in found.results if isinstance(each.result, tuple)],
    )
    parts = (opening, *sections, _notes(found))
    return Report(title, tuple(part for part in parts if part is not None))


def write_report(
    paths: Iterable[str | Path],
    out: str | Path,
    *,
    title: str = "cna_lens report",
    more: Sequence[Section] = (),
) -> Report:
    """Read results from files and folders, and write a report of them.

    Args:
        paths: see `read_results`.
        out: the HTML file.
        title: of the file.
        more: sections to follow, such as `token_section`.

    Raises:
        InputError: there is nothing to report, or a file that was named holds no result.
    """
    report = make_report(read_results(paths), title=title)
    for section in more:
        report = report.with_section(section)
    report.save(out)
    return report


def _found(results: Mapping[str, Result]) -> Found:
    for name, result in results.items():
        labels = cast("tuple[object, ...]", result) if isinstance(result, tuple) else ()
        known = isinstance(result, tuple(_makers()))
        if not known or not all(isinstance(each, Answered) for each in labels):
            raise InputError(
                f"{name} is a {type(result).__name__}, no result to report; give {KNOWN}"
            )
    return Found(tuple(Named(name, result) for name, result in results.items()))


def _makers(kinds: Collection[str] = ()) -> dict[type, Callable[[str, Any], Section]]:
    """The function that makes the section of each kind of result, in the report's order."""
    return {
        Run: run_section,
        Circuit: lambda name, circuit: circuit_section(name, circuit, kinds),
        tuple: answers_section,
        Evaluation: lambda name, found: answers_section(name, (Answered(UNNAMED, "given", found),)),
        Comparison: comparison_section,
        Evidence: evidence_section,
        SavedEvidence: evidence_section,
        StudyTable: study_section,
        Texts: texts_section,
    }


def _kind(result: Result) -> str:
    if isinstance(result, Evidence | SavedEvidence):
        return kind_of(result)
    if isinstance(result, tuple) and any(
        not (each.is_unsteered or each.is_control or each.condition == UNNAMED) for each in result
    ):
        return STEERED_ANSWERS
    return type(result).__name__


def _notes(found: Found) -> Section | None:
    rows = tuple((Cell.of(name), Cell.of(why)) for name, why in found.left_out)
    if not rows and can_draw():
        return None
    no_figures = "There are no figures: pip install 'cna-lens[viz]' and report again."
    return Section(
        "What is not shown",
        tables=(Table("Files that are not shown", ("file", "why"), rows),) if rows else (),
        caveats=() if can_draw() else (no_figures,),
    )
