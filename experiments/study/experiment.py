"""An experiment: the cells it needs, and the report it makes of their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cna_lens.results import Journal
from experiments.study.cells import Cell
from experiments.study.readings import of_circuits, of_models
from experiments.study.reporting import Report, Row
from experiments.study.settings import Role, Study
from experiments.study.sources import Sources

Finding = Row | str
"""A row of the table, or a sentence of the answer."""


@dataclass(frozen=True)
class Results:
    """The values of a study's finished cells.

    Attributes:
        study: the settings.
        sources: where the prompts come from.
        journal: the finished cells.
    """

    study: Study
    sources: Sources
    journal: Journal

    def of(self, cell: Cell) -> dict[str, Any]:
        """The values of one cell."""
        return self.journal[cell.key]["values"]

    def joined(self, cells: Sequence[Cell], name: str) -> list[Any]:
        """One value for each prompt, block after block."""
        return [value for cell in cells for value in self.of(cell)[name]]

    def weights(self, cells: Sequence[Cell]) -> dict[str, str]:
        """The hash of each model's weights."""
        provenance = {cell.model: self.journal[cell.key]["provenance"] for cell in cells}
        return {model: each["weights_sha256"] for model, each in provenance.items()}

    def seconds(self, cells: Sequence[Cell]) -> float:
        """The time that measuring the cells took, over all runs."""
        return sum(self.journal[cell.key]["provenance"]["seconds"] for cell in cells)


@dataclass(frozen=True)
class Experiment:
    """One name of the command line.

    Attributes:
        name: "table1", "settle_sign".
        title: the subject of the table; of a settling experiment, the question.
        cells: the cells to measure.
        found: yields the rows of the table and, for a question, the sentences of its answer.
        differences: how the set-up differs from the paper's, apart from the models.
        roles: the models it measures.
        readings: how the points that the paper leaves open were read.
        unavailable: why it cannot be run with these settings; None where it can.
        draw: draws the report as a figure into a file.
    """

    name: str
    title: str
    cells: Callable[[Study, Sources], list[Cell]]
    found: Callable[[Results], Iterable[Finding]]
    differences: Callable[[Study, Sources], Iterable[str]]
    roles: tuple[Role, ...] = ("instruct",)
    readings: tuple[Callable[[Study], tuple[str, ...]], ...] = (of_circuits,)
    unavailable: Callable[[Study], str | None] = lambda _: None
    draw: Callable[[Report, Path], None] | None = None

    def report(self, results: Results) -> Report:
        """Make the table, and the answer if the experiment settles a question."""
        study = results.study
        findings = list(self.found(results))
        sentences = [each for each in findings if isinstance(each, str)]
        return Report(
            self.name,
            self.title,
            tuple(each for each in findings if isinstance(each, Row)),
            differences=(
                *of_models(study, *self.roles),
                *self.differences(study, results.sources),
            ),
            readings=tuple(text for reading in self.readings for text in reading(study)),
            answer=" ".join(sentences) if sentences else None,
        )


def needs_base(study: Study) -> str | None:
    """Why base models cannot be measured; None where they can."""
    return None if study.subjects("base") else "no base model is given; name one by --base"
