"""Drift: conditions that an operator counts as the same model, each of them computed here."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.audit.checks.null_spread import rounded_stream
from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.weights import named_weights

GROUP: Final = 32
"""Entries of a row that share a step when weights are rounded to 4 bits."""


@dataclass(frozen=True)
class Condition:
    """A way to compute the same model.

    Attributes:
        at_once: texts in each pass; None takes as many as the memory holds.
        stream: the precision of all that is written to the residual stream; None keeps it.
        weights: the precision of the weights, as a type or as a number of bits; None keeps it.
        shifted: whether the levels of bits lie half a step beside their usual places.
    """

    at_once: int | None = None
    stream: torch.dtype | None = None
    weights: torch.dtype | int | None = None
    shifted: bool = False


DRIFTS: Final[Mapping[str, tuple[Condition, Condition]]] = MappingProxyType(
    {
        "batch size": (Condition(at_once=1), Condition(at_once=3)),
        "bfloat16": (
            Condition(stream=torch.bfloat16),
            Condition(at_once=1, stream=torch.bfloat16, weights=torch.bfloat16),
        ),
        "int8": (
            Condition(weights=8),
            Condition(stream=torch.bfloat16, weights=8, shifted=True),
        ),
        "int4": (
            Condition(weights=4),
            Condition(stream=torch.bfloat16, weights=4, shifted=True),
        ),
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

    Weights are changed in place, and restored bit for bit. Meanwhile the memory holds them twice.

    Raises:
        ModelError: weights are to be rounded and one is offloaded, or a part of the residual
            stream cannot be reached.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        if condition.weights is not None:
            for name, weight in named_weights(model).items():
                if weight.is_meta:
                    raise ModelError(
                        f"{name} of {model_name(model)} is offloaded, so that it cannot be rounded "
                        "here; load the model whole, or leave out this drift"
                    )
                if weight.is_floating_point() and weight.ndim > 1:
                    kept.append((weight, weight.detach().clone()))
                    rounded = rounded_weight(weight.detach(), condition.weights, condition.shifted)
                    with torch.no_grad():
                        weight.copy_(rounded)
        with rounded_stream(model, condition.stream):
            yield
    finally:
        with torch.no_grad():
            for weight, original in kept:
                weight.copy_(original)


def rounded_weight(
    weight: Float[Tensor, "*rows width"], to: torch.dtype | int, shifted: bool = False
) -> Float[Tensor, "*rows width"]:
    """Round a matrix to a type, or to whole steps of each row's largest magnitude.

    With 4 bits and less, each group of 32 entries has a step of its own, if they fill the row.

    >>> rounded_weight(torch.tensor([[1.0, -0.3, 0.26]]), to=3)
    tensor([[ 1.0000, -0.3333,  0.3333]])
    >>> rounded_weight(torch.tensor([[1.0, -0.3, 0.26]]), to=3, shifted=True)
    tensor([[ 0.8333, -0.1667,  0.1667]])

    Args:
        weight: the matrix; each row is rounded on its own.
        to: a type of numbers, or a number of bits b with steps of max / (2^(b - 1) - 1).
        shifted: place the levels half a step beside their usual places.
    """
    if isinstance(to, torch.dtype):
        return weight.to(to).to(weight.dtype)
    width = weight.shape[-1]
    group = GROUP if to <= 4 and width % GROUP == 0 else width
    groups = weight.float().reshape(-1, group)
    step = groups.abs().amax(1, keepdim=True) / (2 ** (to - 1) - 1)
    steps = groups / step.clamp_min(torch.finfo(torch.float32).tiny)
    placed = steps.floor() + 0.5 if shifted else steps.round()
    # The largest magnitude has no level half a step beyond it.
    largest = 2 ** (to - 1) - 1 - (0.5 if shifted else 0.0)
    return (placed.clamp(-largest, largest) * step).reshape(weight.shape).to(weight.dtype)
