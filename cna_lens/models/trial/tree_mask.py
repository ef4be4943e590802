"""The trial of a row of several prompts: whether each token sees its own prompt alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cna_lens.models.hooked_model import HookedModel, embedding_dtype, model_name
from cna_lens.models.trial.logits import bridge_logits, said, same_logits

FOREIGN = 13
"""The token of the other prompt."""

OWN = 2
"""The tokens of a prompt behind the common beginning."""

NOTHING_SHOWN = "its logits are all equal or not finite, and show nothing"


def keeps_logits_and_packs(
    model: HookedModel, ids: Int64[Tensor, "1 pos"], whole: Float[Tensor, "pos d_vocab"]
) -> tuple[bool, str | None]:
    """Say whether a model computes chosen logits alone, and why it cannot pack prompts.

    One pass shows both where it can: a row holds the prompt, and a token of another prompt before
    the prompt's last two. Their logits are those of the prompt alone.

    Args:
        model: a bridge.
        ids: the prompt.
        whole: its logits.
    """
    length = ids.shape[1]
    if length <= OWN:
        return keeps_logits(model, ids), "its context holds no two prompts"
    last = torch.tensor([length - 1, length], device=ids.device)
    try:
        logits = _packed(model, ids, logits_to_keep=last)
    except torch.OutOfMemoryError:
        raise
    # Either of the two may be refused, in any way.
    except Exception:
        return keeps_logits(model, ids), _obstacle(model, ids, whole)
    return logits.shape[1] == OWN, _difference(model, logits, whole)


def keeps_logits(model: HookedModel, ids: Int64[Tensor, "1 pos"]) -> bool:
    """Say whether a model computes the logits of chosen positions alone."""
    last = torch.tensor([ids.shape[1] - 1], device=ids.device)
    try:
        logits = bridge_logits(model, ids, attention_mask=torch.ones_like(ids), logits_to_keep=last)
    except torch.OutOfMemoryError:
        raise
    # It may be refused in any way.
    except Exception:
        return False
    return logits.shape[1] == 1


def refuses_tree_mask(model: HookedModel, error: Exception) -> str:
    """Say that a model does not take the mask of several prompts in one row."""
    return f"{model_name(model)} refuses a tree mask: {said(error)}"


def reads_other_prompts(model: HookedModel) -> str:
    """Say that a model does not heed the mask, or the positions."""
    return f"{model_name(model)} computes a prompt differently when another is in its row"


def _obstacle(model: HookedModel, ids: Tensor, whole: Tensor) -> str | None:
    try:
        return _difference(model, _packed(model, ids), whole)
    except torch.OutOfMemoryError:
        raise
    # Models without such masks raise many kinds of errors.
    except Exception as error:
        return refuses_tree_mask(model, error)


def _difference(model: HookedModel, logits: Tensor, whole: Tensor) -> str | None:
    last = whole[-OWN:]
    if not bool(torch.isfinite(last).all()) or bool((last == last[..., :1]).all()):
        return NOTHING_SHOWN
    alike = same_logits(logits[0, -OWN:], last)
    return None if alike else reads_other_prompts(model)


def _packed(
    model: HookedModel, ids: Int64[Tensor, "1 pos"], **options: Tensor
) -> Float[Tensor, "1 kept_pos d_vocab"]:
    shared = ids.shape[1] - OWN
    foreign = ids.new_full((1, 1), FOREIGN % int(model.cfg.d_vocab))
    row = torch.cat([ids[:, :shared], foreign, ids[:, shared:]], dim=1)
    order = torch.arange(row.shape[1], device=ids.device)
    positions = order - (order > shared).long()
    sees = torch.ones(len(order), len(order), dtype=torch.bool, device=ids.device).tril()
    sees[shared + 1 :, shared] = False
    dtype = embedding_dtype(model)
    mask = torch.zeros(sees.shape, dtype=dtype, device=ids.device)
    # Eager attention adds the mask, so a boolean mask would hide nothing.
    mask = mask.masked_fill_(~sees, torch.finfo(dtype).min)[None, None]
    return bridge_logits(model, row, attention_mask=mask, position_ids=positions[None], **options)
