"""The summary of a result: a title, facts, the neurons per layer, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cna_lens.results.statistics import Estimate, Rate


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: the text of the cell.
        number: the number by which a column is sorted; None for a cell without a number.
        short: the text where the interval does not fit.
    """

    text: str
    number: float | None = None
    short: str | None = None

    @classmethod
    def of(cls, value: str | int | float | Rate | Estimate | None, form: str = ".3g") -> Cell:
        """A cell of a text, a formatted number, an estimate with its interval, or "-" for None.

        >>> Cell.of(2.0, "+.2f")
        Cell(text='+2.00', number=2.0, short=None)
        >>> Cell.of(Rate(0.2, 0.13, 0.29, 100)).text
        '20.0 % [13.0, 29.0] n=100'
        """
        if value is None:
            return cls("-")
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Rate | Estimate):
            text = str(value)
            return cls(text, value.value, text.partition(" [")[0])
        return cls(str(value) if isinstance(value, int) else format(value, form), float(value))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Cell:
        """Restore a cell from the plain data that `dataclasses.asdict` gives.

        Raises:
            ValueError: the number is not a number.
        """
        number, short = record["number"], record["short"]
        return cls(
            str(record["text"]),
            None if number is None else float(number),
            None if short is None else str(short),
        )


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    Attributes:
        caption: what the rows are.
        columns: the names of the columns.
        rows: the rows, with one cell for each column.
        keys: so many columns name a row; they are repeated where a table is cut for its width.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    keys: int = 1

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return any(row[column].number is not None for row in self.rows)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Table:
        """Restore a table from the plain data that `dataclasses.asdict` gives.

        Raises:
            ValueError: a row does not have one cell for each column.
        """
        columns = tuple(map(str, record["columns"]))
        rows = tuple(tuple(map(Cell.from_record, row)) for row in record["rows"])
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(f"a row does not have {len(columns)} cells, one for each column")
        # Files of earlier versions name no keys.
        return cls(str(record["caption"]), columns, rows, int(record.get("keys", 1)))

    def shortened(self) -> Table:
        """The same table without intervals."""
        rows = tuple(
            tuple(replace(cell, text=cell.short or cell.text) for cell in row) for row in self.rows
        )
        return replace(self, caption=f"{self.caption} (without intervals)", rows=rows)

    def of_columns(self, columns: Sequence[int]) -> Table:
        """Some columns, by their places."""
        return replace(
            self,
            columns=tuple(self.columns[place] for place in columns),
            rows=tuple(tuple(row[place] for place in columns) for row in self.rows),
        )

    def first(self, n: int) -> Table:
        """The first n rows; the caption says how many rows there are."""
        if len(self.rows) <= n:
            return self
        caption = f"{self.caption}, {n} of {len(self.rows)}"
        return replace(self, caption=caption, rows=self.rows[:n])


@dataclass(frozen=True)
class Summary:
    """The summary of a result.

    Attributes:
        title: what the result is.
        facts: named values in their order.
        table: the table of numbers.
        per_layer: the number of neurons in each layer; None for a result without neurons.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    table: Table | None = None
    per_layer: Sequence[int] | None = None

    def record(self) -> dict[str, Any]:
        """The summary as plain data, for a file that is shown without the result itself."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Summary:
        """Restore a summary from the plain data that `record` gives.

        >>> table = Table("numbers", ("n",), ((Cell.of(1),),))
        >>> summary = Summary("a result", (("k", "3"),), table)
        >>> Summary.from_record(summary.record()) == summary
        True
        """
        table, bars = record["table"], record["per_layer"]
        return cls(
            str(record["title"]),
            tuple((str(name), str(value)) for name, value in record["facts"]),
            None if table is None else Table.from_record(table),
            None if bars is None else tuple(map(int, bars)),
        )
