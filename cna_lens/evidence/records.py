"""What results have in common: plain data, and a JSON file of it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from cna_lens.circuit import Circuit
from cna_lens.files import write_atomically


class Evidence(ABC):
    """A result that can be written as JSON."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """As plain data: numbers, names and seeds, no tensors and no prompts."""

    def save(self, path: str | Path) -> None:
        """Write `record` as JSON."""
        write_atomically(Path(path), json.dumps(self.record(), indent=1, sort_keys=True) + "\n")


def neurons_record(circuit: Circuit) -> list[list[int | float]]:
    """Layer, index and score of each neuron, strongest first; its expert after the layer."""
    return [[*neuron, score] for neuron, score in zip(circuit.neurons, circuit.scores, strict=True)]
