"""Null spread: how far a model is from itself in other batches, precisions and canaries."""

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
from cna_lens.audit.measuring.measurement import Measurement, Place, measure
from cna_lens.audit.measuring.reference import Reference
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.sites import residual_writes
from cna_lens.models.running.batching import BatchSize
from cna_lens.steering.scaling import hooked

CONDITIONS: Mapping[str, tuple[BatchSize, torch.dtype | None]] = MappingProxyType(
    {"one canary at a time": (1, None), "bfloat16": ("auto", torch.bfloat16)}
)
"""The batch size of each condition, and the precision of what is written to the residual stream.

float16 is not among them: it has three more bits than bfloat16, so that its spread is not larger.
"""

N_BOOTSTRAP: Final = 20


@dataclass(frozen=True)
class NullRun:
    """The fingerprint's own model, measured again under another condition.

    Attributes:
        condition: the name of the condition.
        statistics: for each check, the statistic of largest magnitude over the canaries as they are
            and over bootstrap samples of them, drawn within each kind.
        movement: how far the model moved.
    """

    condition: str
    statistics: Mapping[str, float]
    movement: float


def null_runs(
    model: HookedModel,
    canaries: Canaries,
    reference: Reference,
    *,
    position: Place = -1,
    progress: bool = False,
) -> tuple[NullRun, ...]:
    """Measure the model again under each condition: two passes over the canaries for each."""
    found: list[NullRun] = []
    for name, (batch_size, dtype) in tqdm(
        CONDITIONS.items(), desc="null spread", unit="condition", disable=not progress
    ):
        with _rounded(model, dtype):
            now = measure(model, canaries, position=position, batch_size=batch_size)
        found.append(NullRun(name, spread(reference, now), movement(reference, now)))
    return tuple(found)


def spread(
    reference: Reference, now: Measurement, n_resamples: int = N_BOOTSTRAP, seed: int = 0
) -> dict[str, float]:
    """The statistic of largest magnitude of each check, over canaries and bootstrap samples."""
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


def _rounded(model: HookedModel, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Round all that is written to the residual stream, as a model of that type would hold it."""
    if dtype is None:
        return nullcontext()

    def rounded(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return activation.to(dtype).to(activation.dtype)

    return hooked(model, [(name, rounded) for name in residual_writes(model)])
