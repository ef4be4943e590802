"""How far the same model is from itself: other batches, coarser numbers, other canaries."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.audit.checks.checks import by_activations
from cna_lens.audit.checks.signals import movement
from cna_lens.audit.measuring.canaries import Canaries
from cna_lens.audit.measuring.measurement import Measurement, measure
from cna_lens.audit.measuring.reference import Reference
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.sites import residual_writes
from cna_lens.models.running.batching import BatchSize
from cna_lens.steering.scaling import hooked


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
"""The batch size of each, and what is done to all that is written to the residual stream.

float16 is not among them: it has three bits more than bfloat16, whose spread bounds its own.
"""

N_BOOTSTRAP: Final = 20


@dataclass(frozen=True)
class NullRun:
    """The fingerprint's own model, measured again under another condition.

    Attributes:
        condition: which one.
        statistics: of each check the largest by magnitude, over the canaries as they are and over
            bootstrap samples of them, each kind on its own.
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
        found.append(NullRun(name, spread(reference, now), movement(reference, now)))
    return tuple(found)


def spread(
    reference: Reference, now: Measurement, n_resamples: int = N_BOOTSTRAP, seed: int = 0
) -> dict[str, float]:
    """Each check's largest statistic by magnitude, over the canaries and bootstrap samples."""
    n_canaries, n_harmful = len(now.log_odds), now.n_harmful
    generator = torch.Generator().manual_seed(seed)
    samples = [torch.arange(n_canaries)] + [
        torch.cat(
            [
                torch.randint(n_harmful, (n_harmful,), generator=generator),
                torch.randint(
                    n_harmful, n_canaries, (n_canaries - n_harmful,), generator=generator
                ),
            ]
        )
        for _ in range(n_resamples)
    ]
    largest: dict[str, float] = {}
    for rows in samples:
        for found in by_activations(reference.of_canaries(rows), now.of_canaries(rows)):
            largest[found.name] = max(found.statistic, largest.get(found.name, 0.0), key=abs)
    return largest


def _rounded(model: HookedModel, rounding: Any) -> AbstractContextManager[None]:
    if rounding is None:
        return nullcontext()
    return hooked(model, [(name, rounding) for name in residual_writes(model)])
