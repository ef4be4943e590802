"""How far the same model is from itself: other batches, coarser numbers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.audit.canaries import Canaries
from cna_lens.audit.checks import by_activations
from cna_lens.audit.measurement import measure
from cna_lens.audit.movement import movement
from cna_lens.audit.reference import Reference
from cna_lens.batching import BatchSize
from cna_lens.sites import HookedModel, residual_writes
from cna_lens.steering import hooked


class RoundTo:
    """Rounds activations to another type's precision, as a model of that type would hold them."""

    def __init__(self, dtype: torch.dtype) -> None:
        """Take the type."""
        self.dtype = dtype

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG002
        """The same numbers, rounded."""
        return activation.to(self.dtype).to(activation.dtype)


CONDITIONS: Mapping[str, tuple[BatchSize, Any]] = MappingProxyType(
    {
        "one canary at a time": (1, None),
        "bfloat16": ("auto", RoundTo(torch.bfloat16)),
    }
)
"""The batch size of each, and what is done to all that is written to the residual stream."""


@dataclass(frozen=True)
class NullRun:
    """The fingerprint's own model, measured again under another condition.

    Attributes:
        condition: which one.
        statistics: of each check.
        movement: how far everything moved.
    """

    condition: str
    statistics: Mapping[str, float]
    movement: float


def null_runs(
    model: HookedModel, canaries: Canaries, reference: Reference, *, progress: bool = False
) -> tuple[NullRun, ...]:
    """Measure the model again under each condition: two passes over the canaries for each."""
    found: list[NullRun] = []
    for name, (batch_size, rounding) in tqdm(
        CONDITIONS.items(), desc="null spread", unit="condition", disable=not progress
    ):
        with _rounded(model, rounding):
            now = measure(model, canaries, batch_size=batch_size)
        statistics = {finding.name: finding.statistic for finding in by_activations(reference, now)}
        found.append(NullRun(name, statistics, movement(reference, now)))
    return tuple(found)


def _rounded(model: HookedModel, rounding: Any) -> AbstractContextManager[None]:
    if rounding is None:
        return nullcontext()
    return hooked(model, [(name, rounding) for name in residual_writes(model)])
