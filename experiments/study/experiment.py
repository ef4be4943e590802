"""An experiment: the cells it needs, and the report it makes of their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cna_lens.results import Journal
from experiments.study.cells import Cell
from experiments.study.reporting import Report
from experiments.study.settings import Study
from experiments.study.sources import Sources


@dataclass(frozen=True)
class Results:
    """The values of finished cells."""

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
        """What the cells took, whenever they were measured."""
        return sum(self.journal[cell.key]["provenance"]["seconds"] for cell in cells)


@dataclass(frozen=True)
class Experiment:
    """One name of the command line.

    Attributes:
        name: "table1", "settle_sign".
        title: what it shows; for the settling ones a question.
        cells: what has to be measured.
        report: the table made of it.
        unavailable: why it cannot be run with these settings, None where it can.
        draw: draws a figure of the finished cells into a file.
    """

    name: str
    title: str
    cells: Callable[[Study, Sources], list[Cell]]
    report: Callable[[Study, Sources, Results], Report]
    unavailable: Callable[[Study], str | None] = lambda study: None  # noqa: ARG005
    draw: Callable[[Report, Path], None] | None = None


def needs_base(study: Study) -> str | None:
    """Why base models cannot be measured."""
    if study.subjects("base"):
        return None
    return "no base model is given; name one by --base"
