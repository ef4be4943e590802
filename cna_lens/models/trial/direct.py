"""Forward passes past the bridge: Transformers' own modules, with the hooks that are in force.

A bridge computes attention step by step, as hooks inside attention need it, and calls every hook
point. Where no hook is, Transformers' modules give the same numbers, up to rounding, in less time.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.modules import module as module_of_torch

from cna_lens.models.hooked_model import (
    HookedModel,
    embedding_dtype,
    hooked_modules,
    hooks_of_their_own,
    input_device,
    is_bridge,
    model_name,
    without_hooks,
)
from cna_lens.models.inside.experts import unwrapped
from cna_lens.models.inside.paged_weights import paged_weights
from cna_lens.models.trial.caching import PREFIX, obstacle_from
from cna_lens.models.trial.kv_cache import new_cache
from cna_lens.models.trial.logits import bridge_logits, same_logits
from cna_lens.models.trial.plain_model import HOOKS, PlainModel
from cna_lens.models.trial.trial import plainly, trial_prompt, tried

_log = logging.getLogger(__name__)


_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


@dataclass(frozen=True)
class _Way:
    """A way to call the modules.

    Attributes:
        attention: Transformers' name of how attention is computed; bridges do what "eager" does.
        places: whether positions are given, as the bridge gives them where rows are padded.
    """

    attention: str
    places: bool


_WAYS = tuple(
    _Way(attention, places) for attention in ("sdpa", "eager") for places in (True, False)
)

# The way for each set of parts with hooks, None where only the bridge is right; with the state of
# the weights of which it was found.
_found: WeakKeyDictionary[nn.Module, dict[Hashable, tuple[Hashable, _Way | None]]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True, eq=False)
class DirectPass:
    """A forward pass that gives the logits of a bridge without most of its parts.

    Attributes:
        module: Transformers' modules, with the parts of the bridge that carry hooks.
        keeps_logits: whether it can compute the logits of chosen positions alone.
        places: whether it is given positions.
    """

    module: nn.Module
    keeps_logits: bool
    places: bool

    def last_logits(
        self, ids: Int64[Tensor, "batch pos"], mask: Int64[Tensor, "batch whole_pos"], cache: Any
    ) -> Float[Tensor, "batch d_vocab"]:
        """Compute the logits of the last position, and extend the cache."""
        options: dict[str, Any] = {}
        if self.keeps_logits:
            options["logits_to_keep"] = torch.tensor([ids.shape[1] - 1], device=ids.device)
        if self.places:
            places = (mask.cumsum(1) - 1).clamp(min=0)
            options["position_ids"] = places[:, -ids.shape[1] :]
        output = self.module(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        )
        return (output if isinstance(output, Tensor) else output.logits)[:, -1]


def direct_pass(model: HookedModel) -> DirectPass | None:
    """Find a pass without the bridge for the hooks that are in force; None where there is none.

    A part of the bridge that carries hooks stays, with all that is within. Each set of such parts
    is tried out once: with a change at each of its hook points, padded rows that continue from a
    cache must give the bridge's logits. Other hooks are off during this trial.
    """
    if not is_bridge(model) or not (can := tried(model)).cache or not can.reads_mask:
        return None
    points = set(model.hook_dict.values())
    hooked = hooked_modules(model)
    # Hooks on the whole model follow its passes, and stay on the copy.
    way: _Way | None = None
    if paged_weights(model) is not None:
        reason = "its weights are read from the disk, which the blocks of the bridge ask for"
    elif hooked - points - {_inner(model)}:
        reason = "a hook is on a module, not at a hook point"
    elif name := _replaced_method(model):
        reason = f"the method {name} was replaced"
    elif any(getattr(module_of_torch, hooks) for hooks in _GLOBAL_HOOKS):
        reason = "torch has hooks for all modules, which may look for those of the bridge"
    else:
        way = _way(model, hooked & points)
        reason = "nothing else gives its logits with the hooks in force"
    if way is None:
        _log.info(
            "%s: answers are computed through the bridge, since %s", model_name(model), reason
        )
        return None
    return _direct(model, hooked & points, way)


def _way(model: HookedModel, hooked: set[nn.Module]) -> _Way | None:
    """Find the way that gives the bridge's logits with hooks at these points; None without one."""
    known = _found.setdefault(cast("nn.Module", model), {})
    key, weights = _signature(model, hooked), _weights(model)
    of, way = known.get(key, (None, None))
    if of == weights:
        return way
    with without_hooks(model), plainly(model), _changed_at(model, hooked):
        ids = trial_prompt(model)
        whole = bridge_logits(model, ids, attention_mask=torch.ones_like(ids))[0]
        # Equal or infinite logits say nothing about a way, and may come from the steering in force.
        if not bool(torch.isfinite(whole).all()) or bool((whole == whole[..., :1]).all()):
            return None
        # In half precision, another order of sums may change which token is likeliest.
        ways = [way for way in _WAYS if way.attention == "eager" or whole.dtype.itemsize >= 4]
        way = next((way for way in ways if _is_right(model, hooked, way, ids, whole)), None)
    known[key] = weights, way
    return way


def _inner(model: HookedModel) -> nn.Module:
    return cast("Any", model).original_model


def _replaced_method(model: HookedModel) -> str | None:
    """Name a method that a module has of its own, which copies would miss or call elsewhere."""
    return next(
        (
            f"{type(module).__name__}.{name}"
            for module in _modules(model)
            for name, value in vars(module).items()
            if callable(value)
            and not isinstance(value, nn.Module | type)
            and hasattr(type(module), name)
        ),
        None,
    )


def _modules(model: HookedModel) -> list[nn.Module]:
    return [cast("nn.Module", model), *_inner(model).modules()]


def _signature(model: HookedModel, hooked: set[nn.Module]) -> Hashable:
    """What decides whether a pass is right: the code of all modules, and the parts with hooks."""
    code = tuple(type(module).forward for module in _modules(model))
    switches = tuple(sorted(k for k, value in vars(model).items() if value is True))
    numbers = embedding_dtype(model), input_device(model)
    return frozenset(map(id, hooked)), code, switches, numbers


def _weights(model: HookedModel) -> Hashable:
    """What tells that weights have changed, where a part of the bridge has some of its own.

    A bridge splits fused matrices. While the parts share the memory of the whole, neither changes
    alone, and nothing is asked of the weights. Changes through `.data` are not seen.
    """
    weights = list(cast("nn.Module", model).parameters())
    plain = set(_plain_weights(_inner(model)))
    if plain.issuperset(weights):
        return ()
    memories = set(map(_memory, plain))
    if all(_memory(weight) in memories for weight in weights):
        return ()
    return tuple((_memory(weight), _version(weight)) for weight in weights)


def _plain_weights(part: nn.Module) -> Iterator[Tensor]:
    module = cast("nn.Module", unwrapped(part))
    yield from module.parameters(recurse=False)
    for child in module.children():
        yield from _plain_weights(child)


def _memory(weight: Tensor) -> int:
    """Tell the memory of a weight; of kinds that may have none, only the weight itself."""
    return weight.untyped_storage().data_ptr() if type(weight.data) is Tensor else id(weight)


def _version(weight: Tensor) -> int | None:
    return None if weight.is_inference() else cast("Any", weight)._version


def _direct(model: HookedModel, hooked: set[nn.Module], way: _Way) -> DirectPass:
    def stays(part: nn.Module) -> bool:
        return part is not inner and not hooked.isdisjoint(part.children())

    inner = _inner(model)
    plain = PlainModel.inside(model, stays, way.attention).module
    vars(plain).update({hooks: vars(inner)[hooks] for hooks in HOOKS})
    return DirectPass(plain, tried(model).keeps_logits, way.places)


def _is_right(
    model: HookedModel, hooked: set[nn.Module], way: _Way, ids: Tensor, whole: Tensor
) -> bool:
    cache = new_cache(model)
    try:
        read = _direct(model, hooked, way).last_logits
        if tried(model).no_sharing is None:
            prefix = ids[:, :PREFIX]
            if not same_logits(
                read(prefix, torch.ones_like(prefix), cache), whole[PREFIX - 1 :][:1]
            ):
                return False
            cache.batch_repeat_interleave(2)
        return obstacle_from(cache, read, ids, whole) is None
    except torch.OutOfMemoryError:
        raise
    # Models that cannot be called in this way raise many kinds of errors.
    except Exception:
        return False


@contextmanager
def _changed_at(model: HookedModel, hooked: set[nn.Module]) -> Generator[None]:
    """Change activations at hook points, differently at each, so that logits show a missing one."""
    names = {point: name for name, point in model.hook_dict.items() if point in hooked}
    hooks = [(name, partial(_changed, shift=shift)) for shift, name in enumerate(names.values())]
    with hooks_of_their_own(model, hooks):
        yield


def _changed(activation: Any, hook: Any, *, shift: int) -> Any:  # noqa: ARG001
    if not isinstance(activation, Tensor) or not activation.is_floating_point():
        return activation
    places = torch.arange(activation.shape[-1], device=activation.device)
    return activation * (1 + 0.1 * (places + shift).cos()).to(activation.dtype)
