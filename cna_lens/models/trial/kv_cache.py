"""The KV cache, under the argument names of Transformers and TransformerLens.

Only this module knows that the two names differ. Transformers 5.24 passes the cache from layer to
layer as `cache`, but the attention of TransformerLens 4.3 reads `past_key_values`. The cache then
stays empty, and each token sees only itself. `hand_cache_on` translates. It can be removed when
TransformerLens reads `cache`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn

from cna_lens.models.hooked_model import HookedModel

Keyword = Literal["past_key_values", "cache"]
"""The argument through which a model's forward takes a cache."""

WAYS_TO_CACHE: tuple[tuple[Keyword, bool], ...] = (
    ("past_key_values", False),
    ("cache", False),
    ("cache", True),
)
"""Ways to make a bridge use a cache: the argument's name, and whether it is translated."""


def new_cache(model: HookedModel) -> Any:
    """Make an empty Hugging Face cache, with the layers of the model's configuration."""
    from transformers import DynamicCache

    return DynamicCache(config=cast("Any", model).original_model.config)


def cached_tokens(cache: Any) -> int:
    """Count the tokens in a cache of Transformers or of TransformerLens."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0].past_keys.shape[1])


def cache_among(arguments: Mapping[str, Any]) -> Any:
    """Find the cache among the arguments of a forward pass, by its methods; None without one."""
    return next((value for value in arguments.values() if _is_cache(value)), None)


def _is_cache(value: object) -> bool:
    return hasattr(value, "get_seq_length") or hasattr(value, "previous_attention_mask")


def keeps_keys_and_values(cache: Any) -> bool:
    """Whether a filled cache keeps keys and values, and no other state, of every layer."""
    return all(isinstance(getattr(layer, "keys", None), torch.Tensor) for layer in cache.layers)


def joined(caches: Sequence[Any], at: int) -> Any:
    """Join the caches of several batches to one; those that are joined are used up.

    Args:
        caches: keep keys and values of every layer.
        at: the place of the padding in a cache that is shorter than others.
    """
    first, *others = caches
    longest = max(map(cached_tokens, caches))
    for number, layer in enumerate(first.layers):
        layers = [layer, *(cache.layers[number] for cache in others)]
        layer.keys = torch.cat([widened(each.keys, longest, at, dim=2) for each in layers])
        layer.values = torch.cat([widened(each.values, longest, at, dim=2) for each in layers])
        for each in layers[1:]:
            each.keys = each.values = None
    return first


def widened(values: torch.Tensor, length: int, at: int, dim: int) -> torch.Tensor:
    """Put zeros into a tensor, at a place of one dimension, until it is as long as asked.

    >>> widened(torch.tensor([[1, 2, 3]]), length=5, at=1, dim=1)
    tensor([[1, 0, 0, 2, 3]])
    """
    shape = list(values.shape)
    shape[dim] = length - shape[dim]
    before, after = values.tensor_split([at], dim=dim)
    return torch.cat([before, values.new_zeros(shape), after], dim=dim)


def hand_cache_on(model: HookedModel) -> Callable[[], None]:
    """Let the bridge's attention read the cache that Transformers passes under another name.

    Adds a hook before each attention that reads only the old name. The hook does nothing where the
    old name is given. It stays on the model; the returned function removes it.
    """
    handles = [
        module.register_forward_pre_hook(_by_the_old_name, with_kwargs=True)
        for module in cast("nn.Module", model).modules()
        if hasattr(module, "_update_kv_cache") and not _is_handed_on(module)
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo


def hands_cache_on(hook: object) -> bool:
    """Whether a hook is the one that `hand_cache_on` adds, by identity."""
    return hook is _by_the_old_name


def _is_handed_on(module: nn.Module) -> bool:
    return any(map(hands_cache_on, vars(module)["_forward_pre_hooks"].values()))


def _by_the_old_name(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if kwargs.get("cache") is None or kwargs.get("past_key_values") is not None:
        return None
    return args, kwargs | {"past_key_values": kwargs["cache"]}
