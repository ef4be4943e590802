"""The trial of a KV cache: whether answers, and several prompts, can continue from one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.trial.kv_cache import (
    WAYS_TO_CACHE,
    Keyword,
    cached_tokens,
    hand_cache_on,
    keeps_keys_and_values,
    new_cache,
)
from cna_lens.models.trial.logits import bridge_logits, plain_name, said, same_logits

OTHERWISE = "computes differently with its cache than without"

DEPRECATED = "the argument that takes its cache is deprecated"

PREFIX = 4
"""The number of the prompt's tokens that are cached first."""

Reader = Callable[[Tensor, Tensor, Any], Tensor]
"""Computes the logits of the last position, from token ids, mask and cache."""


def ways_to_cache(
    model: HookedModel, ids: Tensor, whole: Tensor
) -> tuple[Keyword | None, str | None, str | None]:
    """Find the argument of a cache that works, and the obstacles to caching and to sharing."""
    reasons: list[str] = []
    for keyword, translated in WAYS_TO_CACHE:
        undo = hand_cache_on(model) if translated else None
        no_cache, no_sharing = _obstacles(model, ids, whole, keyword)
        if no_cache is None:
            return keyword, None, no_sharing
        reasons.append(no_cache)
        if undo is not None:
            undo()
    # A deprecated argument says nothing about the model.
    reason = next((reason for reason in reasons if reason != DEPRECATED), DEPRECATED)
    return None, reason, reason


def _obstacles(
    model: HookedModel, ids: Tensor, whole: Tensor, keyword: Keyword
) -> tuple[str | None, str | None]:
    """Find the obstacles to generating with a cache, and to sharing one."""
    try:
        with deprecation_raised(keyword):
            no_sharing = _obstacle_to_sharing(model, ids, whole, keyword)
            return no_sharing and _obstacle_to_cache(model, ids, whole, keyword), no_sharing
    except FutureWarning:
        return DEPRECATED, DEPRECATED
    except torch.OutOfMemoryError:
        raise
    # Models without a cache raise many kinds of errors.
    except Exception as error:
        reason = f"{plain_name(model)} takes no cache ({said(error)})"
        return reason, reason


@contextmanager
def deprecation_raised(keyword: Keyword) -> Generator[None]:
    """Raise FutureWarning where a model says that its cache's argument is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", f".*{keyword}", FutureWarning)
        yield


def not_held(model: HookedModel, cache: Any, tokens: int) -> str | None:
    """Say that a cache does not hold the tokens that were read; None where it does."""
    held = cached_tokens(cache)
    if held == tokens:
        return None
    return f"the cache of {plain_name(model)} holds {held} tokens after it has read {tokens}"


def _obstacle_to_sharing(
    model: HookedModel, ids: Tensor, whole: Tensor, keyword: Keyword
) -> str | None:
    """Say why prompts of unequal length cannot continue from one prefix; None where they can."""
    cache = new_cache(model)
    prefix = ids[:, :PREFIX]
    read = _reader(model, keyword)
    read(prefix, torch.ones_like(prefix), cache)
    if reason := not_held(model, cache, PREFIX):
        return reason
    if not keeps_keys_and_values(cache):
        return f"{plain_name(model)} keeps more than keys and values of its past"
    try:
        cache.batch_repeat_interleave(2)
    except RuntimeError:
        return f"the cache of {plain_name(model)} cannot be repeated for a batch"
    obstacle = obstacle_from(cache, read, ids, whole, plain_name(model))
    if obstacle != OTHERWISE:
        return obstacle
    return (
        f"{plain_name(model)} computes a prompt differently where padding follows a shared prefix"
    )


def _obstacle_to_cache(
    model: HookedModel, ids: Tensor, whole: Tensor, keyword: Keyword
) -> str | None:
    """Say why a cache changes the logits of the whole text; None where it does not."""
    cache = new_cache(model)
    obstacle = obstacle_from(cache, _reader(model, keyword), ids, whole, plain_name(model))
    if obstacle not in (None, OTHERWISE):
        return obstacle
    # Logits that are all equal show nothing; the number of cached tokens does.
    if reason := not_held(model, cache, ids.shape[1] + 1):
        return reason
    return obstacle and f"{plain_name(model)} {obstacle}"


def obstacle_from(
    cache: Any, read: Reader, ids: Tensor, whole: Tensor, name: str = "the model"
) -> str | None:
    """Say why answers cannot continue from a cache; None where logits equal the whole text's.

    Follows `generate`: of two rows, one of them padded, one leaves, and the other goes one step
    further.

    Args:
        cache: may hold the beginning of the prompt, for two rows.
        read: computes the logits of the last position, from ids, mask and cache.
        ids: the prompt.
        whole: the logits of the whole prompt.
        name: of the model, for messages.
    """
    past = cached_tokens(cache)
    rows = ids[:, past:].repeat(2, 1)
    rows[1, 1:] = ids[0, past:-1]
    mask = ids.new_ones((2, ids.shape[1]))
    mask[1, past] = 0
    first = read(rows, mask, cache)
    try:
        cache.batch_select_indices(torch.tensor([1], device=ids.device))
    except AttributeError:
        return f"the cache of {name} cannot drop a finished answer"
    mask = torch.cat([mask[1:], mask.new_ones((1, 1))], dim=1)
    second = read(ids[:, -1:], mask, cache)
    return None if same_logits(torch.cat([first, second]), whole[[-1, -2, -1]]) else OTHERWISE


def _reader(model: HookedModel, keyword: Keyword) -> Reader:
    """Compute the logits of the last position, by the bridge."""

    def read(ids: Tensor, mask: Tensor, cache: Any) -> Float[Tensor, "batch d_vocab"]:
        options = {keyword: cache}
        return bridge_logits(model, ids, use_cache=True, attention_mask=mask, **options)[:, -1]

    return read
