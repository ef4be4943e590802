"""A table with our values, their intervals and n, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cna_lens import Estimate, Rate
from cna_lens.results import json_text, write_atomically

Value = Rate | Estimate


@dataclass(frozen=True)
class Row:
    """One quantity of one model.

    Attributes:
        model: the model, or "mean over models".
        quantity: the name of the quantity.
        ours: our value; None where there is none.
        paper: the paper's value for this model in the same unit; None where it gives none.
        share: whether the values are shares, shown in per cent.
        at: its place on a figure's horizontal axis, such as the strength or the layer.
        series: the line of a figure it belongs to.
    """

    model: str
    quantity: str
    ours: Value | None
    paper: float | None = None
    share: bool = False
    at: float | None = None
    series: str = ""

    def cells(self) -> tuple[str, str, str, str, str, str]:
        """Model, quantity, value, interval, n, the paper's value, as text."""
        if self.ours is None:
            return self.model, self.quantity, "-", "", "0", self._number(self.paper)
        low, high = self.ours.low, self.ours.high
        interval = (
            ""
            if low is None or high is None
            else f"[{self._number(low, '')}, {self._number(high, '')}]"
        )
        missing = getattr(self.ours, "missing", 0)
        n = f"{self.ours.n} ({missing} missing)" if missing else str(self.ours.n)
        return (
            self.model,
            self.quantity,
            self._number(self.ours.value),
            interval,
            n,
            self._number(self.paper),
        )

    def _number(self, value: float | None, unit: str = " %") -> str:
        if value is None:
            return ""
        if self.share or isinstance(self.ours, Rate):
            return f"{100 * value:.1f}{unit}"
        return f"{value:.3g}"


HEAD = ("model", "measured", "ours", "95 % interval", "n", "paper")


@dataclass(frozen=True)
class Report:
    """The result of an experiment.

    Attributes:
        name: of the experiment.
        title: the subject of the table, or the question: the first line.
        rows: the table.
        differences: how the set-up differs from the paper's.
        readings: how the points that the paper leaves open were read.
        answer: to the question, with its interval: the last line.
        provenance: command, date, seed, hashes.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    differences: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()
    answer: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """The report as a file for readers."""
        lines = [f"# {self.name}: {self.title}" if self.answer is None else self.title, ""]
        lines += [f"{name}: {value}  " for name, value in self.provenance.items()]
        lines += ["", f"| {' | '.join(HEAD)} |", "|---|---|---|---|---|---|"]
        lines += [f"| {' | '.join(row.cells())} |" for row in self.rows]
        for head, texts in (
            ("Readings of what the paper leaves open:", self.readings),
            ("The set-up differs from the paper's:", self.differences),
        ):
            if texts:
                lines += ["", head, "", *(f"- {text}" for text in texts)]
        if self.answer is not None:
            lines += ["", self.answer]
        return "\n".join(lines) + "\n"

    def record(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def save(self, folder: Path) -> Path:
        """Write NAME.md for readers and NAME.json for programs."""
        path = folder / f"{self.name}.md"
        write_atomically(path, self.markdown())
        record = json_text(self.record(), indent=1)
        write_atomically(folder / f"{self.name}.json", record + "\n")
        return path

    def show(self, console: Console) -> None:
        """Print it, the question or title first, the answer last."""
        console.print(escape(self.title), highlight=False, style="bold")
        table = Table(*HEAD)
        for row in self.rows:
            table.add_row(*map(escape, row.cells()))
        console.print(table)
        for head, texts in (("read as", self.readings), ("unlike the paper", self.differences)):
            for text in texts:
                console.print(f"{head}: {escape(text)}", style="dim", highlight=False)
        if self.answer is not None:
            console.print(escape(self.answer), highlight=False)


def interval(value: Value, *, share: bool = False) -> str:
    """A value with its interval, for a sentence.

    >>> interval(Rate(0.5, 0.25, 0.75, 8))
    '50 % [25, 75] (n = 8)'
    """
    factor, digits, unit = (
        (100, ".0f", " %") if share or isinstance(value, Rate) else (1, ".2f", "")
    )
    ends = (
        ""
        if value.low is None or value.high is None
        else (f" [{factor * value.low:{digits}}, {factor * value.high:{digits}}]")
    )
    return f"{factor * value.value:{digits}}{unit}{ends} (n = {value.n})"


def excludes_zero(value: Estimate) -> bool:
    """Whether the interval of a change excludes 0."""
    return value.low is not None and value.high is not None and not value.low <= 0 <= value.high


def percentiles(values: Sequence[float], point: float, n: int) -> Estimate:
    """A value with the percentiles of its resamples.

    >>> percentiles([0.0, 0.5, 1.0], 0.6, 10).value
    0.6
    """
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(float(point), float(low), float(high), n)
