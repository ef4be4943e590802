"""Evidence: a result that shows itself, and writes itself as JSON."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from cna_lens.results.circuit import Circuit
from cna_lens.results.files import json_text, write_atomically
from cna_lens.results.rendering import Summarized, Summary, Table


class Evidence(Summarized):
    """A result that shows itself and can be written as JSON."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The result as plain data: numbers, names and seeds; no tensors and no prompts."""

    def save(self, path: str | Path) -> None:
        """Write `record` as JSON, with the name of the result's class and its summary.

        A number that is not finite is written as the string "NaN", "Infinity" or "-Infinity".
        """
        body = {
            "evidence": type(self).__name__,
            "summary": self._summary().record(),
            **self.record(),
        }
        write_atomically(Path(path), json_text(body, indent=1) + "\n")

    @abstractmethod
    def _headline(self) -> str:
        """The finding in one line."""

    @abstractmethod
    def _facts(self) -> list[tuple[str, str]]:
        """Named values, shown above the table."""

    @abstractmethod
    def _table(self) -> Table:
        """The table of numbers."""

    def _summary(self) -> Summary:
        return Summary(f"{type(self).__name__}: {self._headline()}", self._facts(), self._table())

    def __repr__(self) -> str:
        """One useful line."""
        return f"{type(self).__name__}({self._headline()})"


def neurons_record(circuit: Circuit) -> list[list[int | float]]:
    """Layer, expert (of an expert's neuron), index and score of each neuron, strongest first."""
    return [[*neuron, score] for neuron, score in zip(circuit.neurons, circuit.scores, strict=True)]


def prompt_facts(n_positive: int, n_negative: int, paired: bool) -> list[tuple[str, str]]:
    """The number of prompts of each kind, as a fact of a summary."""
    drawn = ", drawn as pairs" if paired else ""
    return [("prompts", f"{n_positive} positive, {n_negative} negative{drawn}")]
