"""Forward passes over rows of several prompts, for models that read them as if each stood alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.batching import TokenIds
from cna_lens.forward import SharedPrefix, forward_trunk, sliding_window
from cna_lens.memory import token_budget
from cna_lens.packing import PackedTokens, Row, alone, pack
from cna_lens.sites import HookedModel, carries_hooks, embedding_dtype, input_device, model_name
from cna_lens.trial import tried

_log = logging.getLogger(__name__)

Read = Callable[
    [Sequence[Sequence[TokenIds]], Sequence[int]],
    Float[Tensor, "prompt neuron"],
]

ROW_TOKENS = 96
"""Longer rows share more, but attention in a row grows with its square; 80 to 128 cost the same."""

WORTH_TRYING = 8
"""Packing has to save an eighth of a full pass: it is first tried on a few tokens of its own."""

TRIED_TOKENS = 4


def rows_for(
    model: HookedModel, suffixes: Sequence[TokenIds], prefix: SharedPrefix, read: Read
) -> list[Row]:
    """Prompts packed with those that begin alike, where that saves time and changes nothing.

    Args:
        model: the model.
        suffixes: the prompts' tokens behind the prefix.
        prefix: what they all begin with.
        read: runs rows of prompts, and gives the activations at a place in each.
    """
    single, packed = alone(suffixes), pack(suffixes, ROW_TOKENS)
    saved = sum(row.length for row in single) - sum(row.length for row in packed)
    longest = prefix.length + max(row.length for row in packed)
    if saved * WORTH_TRYING < token_budget(model, longest):
        return single
    if reason := cannot_pack(model, suffixes, longest, read):
        _log.info("%s: prompts run one a row, since %s", model_name(model), reason)
        return single
    return packed


def cannot_pack(
    model: HookedModel, suffixes: Sequence[TokenIds], longest: int, read: Read
) -> str | None:
    """Why a model cannot run several prompts in one row; None where it can.

    Whether a model heeds a mask of trees and its positions is not for its configuration to say: it
    is seen on a few tokens, in which the same prompt stands alone and beside another.

    Args:
        model: the model.
        suffixes: the prompts' tokens behind the prefix.
        longest: tokens of the longest row, with the prefix.
        read: runs rows of prompts, and gives the activations at a place in each.
    """
    if reason := tried(model).no_sharing:
        return reason
    if carries_hooks(model):
        return "a hook on the model may count rows or positions"
    window = sliding_window(model)
    if window is not None and window < longest:
        return f"a row of {longest} tokens is longer than the window of {window}"
    first, last = min(suffixes)[:TRIED_TOKENS], max(suffixes)[:TRIED_TOKENS]
    places = [len(first) - 1, len(last) - 1, len(last) - 1]
    try:
        _, beside, by_itself = read([[first, last], [last]], places)
    except Exception as error:
        return f"{model_name(model)} refuses a mask of trees: {error}"
    tolerance = torch.finfo(by_itself.dtype).eps ** 0.5
    if (beside - by_itself).norm() <= tolerance * by_itself.norm():
        return None
    return f"{model_name(model)} reads a prompt otherwise when another is in its row"


def forward_rows(model: HookedModel, packed: PackedTokens, prefix: SharedPrefix) -> None:
    """Run rows of prompts behind their prefix, for what the model's hooks see.

    Args:
        model: the model; one for which `cannot_pack` is None where a row holds several prompts.
        packed: the rows.
        prefix: what all prompts begin with.
    """
    device = input_device(model)
    if packed.is_plain:
        mask, position_ids = prefix.mask(packed.mask), None
    else:
        mask = prefix.tree_mask(packed.sees(), embedding_dtype(model))
        position_ids = (prefix.length + packed.order()).to(device)
    forward_trunk(model, packed.ids.to(device), mask.to(device), prefix.read_only(), position_ids)
