"""Forward passes with one call for a bridge and a HookedTransformer, and shared prefixes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel, input_device, is_bridge, model_name
from cna_lens.models.prompts.encoding import TokenIds, pad_token_id
from cna_lens.models.running.batching import pad, shared_prefix_length
from cna_lens.models.running.positions import needs_whole_prompts, prompt_lengths
from cna_lens.models.trial.kv_cache import new_cache
from cna_lens.models.trial.trial import tried

_log = logging.getLogger(__name__)

MIN_SHARED_PREFIX = 4
"""A shorter prefix is not worth a forward pass of its own."""


@dataclass(frozen=True)
class SharedPrefix:
    """The keys and values of the beginning of several rows, computed once.

    Attributes:
        length: the number of tokens, 0 where nothing is shared.
        cache: their keys and values, None where nothing is shared: a batch of one where all rows
            begin alike; otherwise of several, each of which begins as many successive rows.
        reason: why a common prefix is not shared, None otherwise.
    """

    length: int
    cache: Any = None
    reason: str | None = None

    @classmethod
    def of(
        cls,
        model: HookedModel,
        prompts: Sequence[TokenIds],
        at_most: int | None = None,
        *,
        gradients: bool = False,
    ) -> SharedPrefix:
        """Compute the common prefix of the prompts, where the model can continue from it.

        Args:
            model: the model.
            prompts: token ids.
            at_most: the longest prefix allowed.
            gradients: keep the graph, so that gradients reach what the hooks in force do to the
                prefix.
        """
        length = shared_prefix_length(prompts, at_most)
        if length < MIN_SHARED_PREFIX or len(prompts) < 2:
            return cls(0)
        whole = "the steering in force reads a token of each whole prompt"
        if reason := whole if needs_whole_prompts() else tried(model).no_sharing:
            _log.info("%s: no prefix is shared, since %s", model_name(model), reason)
            return cls(0, reason=reason)
        ids = torch.tensor([prompts[0][:length]], device=input_device(model))
        # Every prompt continues after the prefix, so the prefix holds no prompt's last token.
        with torch.set_grad_enabled(gradients), prompt_lengths([min(map(len, prompts))]):
            _, cache = forward_with_cache(model, ids, torch.ones_like(ids), None)
        return cls(length, cache)

    def expand(self, batch: int) -> Any:
        """Copy the cache for a batch; a forward pass may extend the copy. None for no prefix."""
        if self.cache is None:
            return None
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(batch)
        return cache

    def read_only(self) -> Any:
        """Give a cache for one forward pass of any batch, which does not change it.

        It repeats the beginnings for one layer at a time and keeps no later token, so a batch needs
        no memory for the keys and values of all layers. None for no prefix.
        """
        if self.cache is None:
            return None
        cache = copy.copy(self.cache)
        cache.layers = [_read_only(layer) for layer in self.cache.layers]
        return cache

    def mask(self, own: Int64[Tensor, "batch pos"]) -> Int64[Tensor, "batch whole_pos"]:
        """Put the prefix in front of a batch's mask."""
        return torch.cat([own.new_ones((len(own), self.length)), own], dim=1)

    def pad(
        self, model: HookedModel, prompts: Sequence[TokenIds]
    ) -> tuple[Int64[Tensor, "batch pos"], Int64[Tensor, "batch whole_pos"]]:
        """Right-pad the tokens behind the prefix; the mask covers the prefix too.

        Args:
            model: gives the padding token and the device.
            prompts: whole prompts, with the prefix.
        """
        ids, mask = pad([prompt[self.length :] for prompt in prompts], pad_token_id(model))
        device = input_device(model)
        return ids.to(device), self.mask(mask).to(device)

    def tree_mask(
        self, sees: Bool[Tensor, "row pos pos"], dtype: torch.dtype
    ) -> Float[Tensor, "row 1 pos whole_pos"]:
        """Additive attention mask: each token sees the prefix and the allowed tokens."""
        prefix = sees.new_ones((*sees.shape[:2], self.length))
        hidden = ~torch.cat([prefix, sees], dim=2)[:, None]
        # Eager attention adds the mask, so a boolean mask would hide nothing.
        return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, torch.finfo(dtype).min)


def _read_only(layer: Any) -> Any:
    def update(keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return (
            torch.cat([_repeated(layer.keys, len(keys)), keys], dim=-2),
            torch.cat([_repeated(layer.values, len(values)), values], dim=-2),
        )

    same = copy.copy(layer)
    same.update = update
    return same


def _repeated(cached: Tensor, batch: int) -> Tensor:
    if len(cached) == 1:
        return cached.expand(batch, -1, -1, -1)
    return cached.repeat_interleave(batch // len(cached), dim=0)


WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")


def sliding_window(model: HookedModel) -> int | None:
    """Width of the attention window, in tokens; None for a model without one."""
    if not is_bridge(model):
        return getattr(model.cfg, "window_size", None)
    config = cast("Any", model).original_model.config.get_text_config()
    windows = [getattr(config, name, None) for name in WINDOWS]
    return min((window for window in windows if isinstance(window, int)), default=None)


def _cached(model: HookedModel, cache: Any) -> dict[str, Any]:
    keyword = tried(model).cache
    return {"use_cache": False} if cache is None else {cast("str", keyword): cache}


def _bridge_pass(
    model: HookedModel,
    ids: Int64[Tensor, "batch pos"],
    logits_to_keep: Int64[Tensor, " kept"] | None = None,
    **kwargs: Any,
) -> Any:
    can = tried(model)
    if can.keeps_logits:
        # By a number instead of positions Gemma 4 would also leave them out of its last layers.
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        kwargs["logits_to_keep"] = last if logits_to_keep is None else logits_to_keep
    # With a mask, TransformerLens lets GPT-1 see later tokens. Without one, padding on the right
    # does not change the tokens before it.
    if not can.reads_mask:
        del kwargs["attention_mask"]
    return cast("nn.Module", model)(ids, **kwargs)


def forward_trunk(
    model: HookedModel,
    ids: Int64[Tensor, "batch pos"],
    mask: Int64[Tensor, "batch whole_pos"] | Float[Tensor, "batch 1 pos whole_pos"],
    cache: Any = None,
    position_ids: Int64[Tensor, "batch pos"] | None = None,
) -> None:
    """Run the model for its hooks; no logits are kept.

    Args:
        model: the model.
        ids: token ids, right padded, without a shared prefix.
        mask: 1 on real tokens, over the prefix and the ids; or one from `SharedPrefix.tree_mask`.
        cache: keys and values of the prefix, from `SharedPrefix.read_only`.
        position_ids: each token's place in its prompt, where that differs from its place in the
            row.
    """
    if not is_bridge(model):
        tried(model)
        cast("nn.Module", model)(ids, return_type=None, attention_mask=mask)
        return
    placed = {} if position_ids is None else {"position_ids": position_ids}
    cached = _cached(model, cache)
    _bridge_pass(model, ids, return_type=None, attention_mask=mask, **cached, **placed)


def forward_logits(
    model: HookedModel,
    ids: Int64[Tensor, "batch pos"],
    mask: Int64[Tensor, "batch whole_pos"],
    cache: Any,
    first: int,
) -> Float[Tensor, "batch kept_pos d_vocab"]:
    """Compute the logits from one position on; earlier positions are not unembedded.

    Args:
        model: the model.
        ids: token ids, right padded, without a shared prefix.
        mask: 1 on real tokens, over the prefix and the ids.
        cache: keys and values of the prefix, from `SharedPrefix.read_only`.
        first: the first position among the ids that is kept.
    """
    if not is_bridge(model):
        tried(model)
        logits = cast("nn.Module", model)(ids, return_type="logits", attention_mask=mask)
        return logits[:, first:]
    kept = torch.arange(first, ids.shape[1], device=ids.device)
    logits = _bridge_pass(
        model,
        ids,
        logits_to_keep=kept,
        return_type="logits",
        attention_mask=mask,
        **_cached(model, cache),
    )
    return logits if tried(model).keeps_logits else logits[:, first:]


def forward_with_cache(
    model: HookedModel,
    ids: Int64[Tensor, "batch pos"],
    mask: Int64[Tensor, "batch whole_pos"],
    cache: Any,
) -> tuple[Float[Tensor, "batch d_vocab"], Any]:
    """Compute the logits of the last position, and the keys and values up to it."""
    cache = new_cache(model) if cache is None else cache
    logits = _bridge_pass(
        model,
        ids,
        return_type="logits",
        attention_mask=mask,
        use_cache=True,
        **_cached(model, cache),
    )
    return logits[:, -1], cache
