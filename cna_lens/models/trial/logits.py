"""Logits of a trial's few tokens, and whether two computations agree."""

from __future__ import annotations

from textwrap import shorten
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.trial.plain_model import relative_error


def bridge_logits(
    model: HookedModel, ids: Int64[Tensor, "batch pos"], **options: Any
) -> Float[Tensor, "batch kept_pos d_vocab"]:
    """Compute logits, without a cache unless one is given."""
    options = {"return_type": "logits", "use_cache": False} | options
    return cast("nn.Module", model)(ids, **options)


def tolerance(logits: Tensor) -> float:
    """Relative error far above rounding, and far below that of another computation."""
    # Models compute norms and softmax in float32, whatever their weights are.
    return max(torch.finfo(logits.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5


def same_logits(found: Tensor, expected: Tensor) -> bool:
    """Whether logits agree up to a constant; logits that are not finite count as equal."""
    if not bool(torch.isfinite(expected).all()):
        return True
    found, expected = (logits - logits.mean(-1, keepdim=True) for logits in (found, expected))
    return relative_error(found, expected) <= tolerance(expected)


def said(error: Exception) -> str:
    """Shorten an error to a line; libraries may write pages."""
    return shorten(f"{type(error).__name__}: {error}", 200)


def plain_name(model: HookedModel) -> str:
    """Name the class of the Hugging Face model inside a bridge."""
    return type(cast("Any", model).original_model).__name__
