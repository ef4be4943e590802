"""Coarse histograms of activations: the only data that a watch keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.results.neurons import Neuron
from cna_lens.results.versioned import VersionedJson

_FILE: Final = VersionedJson(
    "cna_lens.histograms", 1, "histogram", InputError, "count the requests again", indent=None
)

_POWERS: Final = tuple(2.0**power for power in range(-6, 7))
EDGES: Final = (*(-edge for edge in reversed(_POWERS)), *_POWERS)
"""Borders of the bins: powers of two on both sides of zero, which suit any scale."""

N_BINS: Final = len(EDGES) + 1


def binned(activations: Float[Tensor, "*batch"]) -> Int64[Tensor, "*batch"]:
    """The bin of each activation; NaN goes to the highest bin.

    >>> binned(torch.tensor([0.0, 1.5, 1.9, 4.0, 1e9])).tolist()
    [13, 20, 20, 21, 26]
    """
    edges = torch.tensor(EDGES, dtype=activations.dtype, device=activations.device)
    return torch.bucketize(activations, edges)


@dataclass(frozen=True, eq=False)
class Histograms:
    """The number of requests in each bin of activation, for each neuron, at the last token.

    Powers of two bound the bins: a neuron that is multiplied by 1/2 moves by one bin.
    Nothing else is kept: no token, no text, no link between a request and a neuron, and no order.

    >>> histograms = Histograms.empty("tiny-llama", (Neuron(1, 3),))
    >>> histograms
    Histograms(1 neuron, 0 requests, model tiny-llama)

    Attributes:
        model: the name of the model.
        neurons: the neurons whose activations were counted.
        counts: the number of requests in each bin between `EDGES`, for each neuron.
    """

    model: str
    neurons: tuple[Neuron, ...]
    counts: Int64[Tensor, "neuron bin"]

    def __post_init__(self) -> None:
        """Require counts of these neurons, with equally many requests for each."""
        expected = (len(self.neurons), N_BINS)
        if not self.neurons or tuple(self.counts.shape) != expected:
            raise InputError(
                f"the counts have the shape {tuple(self.counts.shape)}, expected {expected} for "
                f"{len(self.neurons)} neurons, and at least one neuron"
            )
        totals = self.counts.sum(1)
        if bool((self.counts < 0).any()) or bool((totals != totals[0]).any()):
            raise InputError(
                "the counts are negative, or some neurons have more requests than others; give "
                "histograms from `watch`"
            )

    @classmethod
    def empty(cls, model: str, neurons: tuple[Neuron, ...]) -> Histograms:
        """Histograms without any request."""
        return cls(model, neurons, torch.zeros((len(neurons), N_BINS), dtype=torch.int64))

    @property
    def n_requests(self) -> int:
        """Number of requests that were counted."""
        return int(self.counts[0].sum())

    def __repr__(self) -> str:
        """One useful line."""
        plural = "" if len(self.neurons) == 1 else "s"
        return (
            f"Histograms({len(self.neurons)} neuron{plural}, {self.n_requests} requests, "
            f"model {self.model})"
        )

    def save(self, path: str | Path) -> None:
        """Write them as JSON; an existing file is replaced as a whole or not at all."""
        record = {
            "model": self.model,
            "edges": EDGES,
            "neurons": self.neurons,
            "counts": self.counts.tolist(),
        }
        _FILE.save(path, record)

    @classmethod
    def load(cls, path: str | Path) -> Histograms:
        """Read histograms that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or of other bins.
        """
        return _FILE.load(path, cls._from_record)

    @classmethod
    def _from_record(cls, record: Mapping[str, Any]) -> Histograms:
        if tuple(record["edges"]) != EDGES:
            raise InputError("it has other bins than this version")
        neurons = tuple(Neuron(layer, index) for layer, index in record["neurons"])
        return cls(str(record["model"]), neurons, torch.tensor(record["counts"]))
