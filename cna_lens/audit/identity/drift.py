"""Drift: conditions that an operator counts as the same model, each of them computed here."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, model_name

GROUP: Final = 32
"""Entries of a row that share a step when weights are rounded to 4 bits."""


@dataclass(frozen=True)
class Condition:
    """A way to compute the same model.

    Attributes:
        at_once: texts in each pass; None takes as many as the memory holds.
        bits: the precision of the matrices; None keeps it.
        dtype: the type in which all is computed; None keeps the model's.
        shifted: whether weights are rounded in another way: to levels of bits half a step beside
            their usual places, and to a type's upper or lower neighbour at random.
    """

    at_once: int | None = None
    bits: int | None = None
    dtype: torch.dtype | None = None
    shifted: bool = False


def _both(bits: int | None, dtype: torch.dtype | None) -> tuple[Condition, Condition]:
    return Condition(None, bits, dtype), Condition(3, bits, dtype, shifted=True)


DRIFTS: Final[Mapping[str, tuple[Condition, Condition]]] = MappingProxyType(
    {
        "batch size": (Condition(at_once=1), Condition(at_once=3)),
        "bfloat16": _both(None, torch.bfloat16),
        "int8": _both(8, torch.bfloat16),
        "int4": _both(4, torch.bfloat16),
    }
)
"""Each drift twice: canaries are chosen under the first condition, and counted under the second.

Canaries that were chosen because they are stable under a condition are stable under it, which says
nothing. The second condition is of the same size, and no canary was chosen by it.
"""

DRIFT: Final = ("batch size", "bfloat16")
"""What counts as the same model unless the operator says otherwise."""


def check_drifts(names: tuple[str, ...]) -> None:
    """Raise InputError unless these are some of `DRIFTS`."""
    if not names:
        raise InputError(f"no drift is given; give some of {', '.join(DRIFTS)}")
    for name in names:
        if name not in DRIFTS:
            raise InputError(f"there is no drift {name!r}; there are: {', '.join(DRIFTS)}")


@contextmanager
def under(model: HookedModel, condition: Condition) -> Generator[None]:
    """Compute the model in a condition's precisions within the context.

    Weights are replaced, and restored bit for bit. Meanwhile the memory holds them twice.

    Raises:
        ModelError: weights are to be rounded, and one is offloaded.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        if condition.bits is not None or condition.dtype is not None:
            generator = torch.Generator().manual_seed(0)
            for name, weight in _weights(model):
                if weight.is_meta:
                    raise ModelError(
                        f"{name} of {model_name(model)} is offloaded, so that it cannot be rounded "
                        "here; load the model whole, or leave out this drift"
                    )
                if weight.is_floating_point():
                    kept.append((weight, weight.data))
                    # Not copied into: another type changes what is computed.
                    weight.data = _as_in(condition, weight.data, generator)
        yield
    finally:
        for weight, original in kept:
            weight.data = original


def _weights(model: HookedModel) -> list[tuple[str, Tensor]]:
    """All parameters, and the bias of zeros that TransformerLens adds to an LM head as a buffer."""
    module = cast("nn.Module", getattr(model, "original_model", model))
    added = [each for each in module.named_buffers() if each[0].endswith(".bias")]
    return [*module.named_parameters(), *added]


def _as_in(condition: Condition, weight: Tensor, generator: torch.Generator) -> Tensor:
    if condition.bits is not None and weight.ndim > 1:
        weight = rounded_to_bits(weight, condition.bits, shifted=condition.shifted)
    if condition.dtype is None:
        return weight
    if condition.shifted:
        weight = _at_random(weight, condition.dtype, generator)
    return weight.to(condition.dtype)


def _at_random(weight: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Move by up to half a step of a type, so that rounding goes to either neighbour."""
    values = weight.float()
    step = torch.exp2(values.abs().clamp_min(1e-30).log2().floor()) * torch.finfo(dtype).eps
    drawn = torch.rand(weight.shape, generator=generator).to(values.device)
    return values + (drawn - 0.5) * step


def rounded_to_bits(
    weight: Float[Tensor, "*rows width"], bits: int, *, shifted: bool = False
) -> Float[Tensor, "*rows width"]:
    """Round a matrix to whole steps of each row's largest magnitude.

    With 4 bits and less, each group of 32 entries has a step of its own, if they fill the row.

    >>> rounded_to_bits(torch.tensor([[1.0, -0.3, 0.26]]), 3)
    tensor([[ 1.0000, -0.3333,  0.3333]])
    >>> rounded_to_bits(torch.tensor([[1.0, -0.3, 0.26]]), 3, shifted=True)
    tensor([[ 0.8333, -0.1667,  0.1667]])

    Args:
        weight: the matrix; each row is rounded on its own.
        bits: the number b of bits, with steps of max / (2^(b - 1) - 1).
        shifted: place the levels half a step beside their usual places.
    """
    width = weight.shape[-1]
    group = GROUP if bits <= 4 and width % GROUP == 0 else width
    groups = weight.float().reshape(-1, group)
    step = groups.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    steps = groups / step.clamp_min(torch.finfo(torch.float32).tiny)
    placed = steps.floor() + 0.5 if shifted else steps.round()
    # The largest magnitude has no level half a step beyond it.
    largest = 2 ** (bits - 1) - 1 - (0.5 if shifted else 0.0)
    return (placed.clamp(-largest, largest) * step).reshape(weight.shape).to(weight.dtype)
