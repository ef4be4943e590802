"""The models that cna_lens works on: their protocol, name, device and hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import chain
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.dropout import _DropoutNd  # pyright: ignore[reportPrivateUsage]

from cna_lens.errors import ModelError

OWN_HOOKS = (
    "transformer_lens",
    "transformers.utils.output_capturing",
    "cna_lens.models.trial.kv_cache",
    "cna_lens.models.inside.paged_weights",
)
"""Modules whose hooks belong to a model: the bridge's, those that Transformers leaves after a
request for hidden states, the translation of the cache, and the reading of weights from disk."""


# Held while hooks are put on and taken off. A thread may hold it several times.
_changing_hooks = threading.RLock()


@runtime_checkable
class HookedModel(Protocol):
    """The interface that cna_lens needs; TransformerBridge and HookedTransformer have it."""

    cfg: Any
    tokenizer: Any
    hook_dict: Mapping[str, Any]

    def hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Add hooks until the context ends."""
        ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run one forward pass."""
        ...


def check_model(model: object) -> None:
    """Raise ModelError unless activations can be read and changed on this model.

    A part that is left in training mode is refused if it is a dropout or a batch norm of torch, or
    if it has a dropout rate above 0, as Transformers' attentions have; what other modules do in
    training mode is not known here.
    """
    if not isinstance(model, HookedModel):
        raise ModelError(
            f"a {type(model).__name__} is not a TransformerLens model; load it with "
            "cna_lens.load_model(name), or wrap it: "
            "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)"
        )
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"a {type(model).__name__} runs in another process, and its hooks can only read; "
            "load the model into this process with cna_lens.load_model(name)"
        )
    if model.training or getattr(getattr(model, "original_model", None), "training", False):
        raise ModelError("the model is in training mode (dropout is on); call model.eval() first")
    for name, part in _parts(model):
        if part.training and _trains_differently(part):
            raise ModelError(
                f"{name} ({type(part).__name__}) is in training mode, below a model in evaluation "
                "mode, so no two runs give the same numbers; call model.eval() first"
            )


def _parts(model: HookedModel) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules, with those of a Hugging Face model that its bridge does not hold."""
    inner: nn.Module | None = getattr(model, "original_model", None)
    seen: set[nn.Module] = set()
    for root in (cast("nn.Module", model), inner):
        if root is not None:
            yield from root.named_modules(seen)


def _trains_differently(part: nn.Module) -> bool:
    """Whether a module is known to compute something else in training mode."""
    if isinstance(part, _BatchNorm | nn.RReLU):
        return True
    if isinstance(part, _DropoutNd):
        return part.p > 0
    # A bridge's attention takes its rate from the attention that it wraps.
    holders = (part, getattr(part, "original_component", None))
    return any(
        "drop" in name and isinstance(value, float) and value > 0
        for holder in holders
        if isinstance(holder, nn.Module)
        for name, value in vars(holder).items()
    )


def model_name(model: HookedModel) -> str:
    """Give the name under which the model was loaded."""
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)


def is_bridge(model: HookedModel) -> bool:
    """Whether the model wraps a Hugging Face model."""
    return hasattr(model, "original_model")


def input_device(model: HookedModel) -> torch.device:
    """Give the device of the embedding, on which token ids are expected.

    Where the embedding is offloaded, whatever loads it takes ids from any device, and the answer is
    that of the first weight or buffer that is there; meta where none is.
    """
    module = cast("nn.Module", model)
    devices = (tensor.device for tensor in chain(module.parameters(), module.buffers()))
    return next((each for each in devices if each.type != "meta"), torch.device("meta"))


def embedding_dtype(model: HookedModel) -> torch.dtype:
    """Give the precision of the embedding, in which hidden states begin."""
    return next(cast("nn.Module", model).parameters()).dtype


def carries_hooks(model: HookedModel) -> bool:
    """Whether any module has a hook that does not belong to the libraries."""
    return any(True for _ in _foreign_hooks(model))


def hooked_modules(model: HookedModel) -> set[nn.Module]:
    """Give the hook points and modules with a hook that does not belong to the libraries."""
    return {module for module, _, _ in _foreign_hooks(model)}


class HooksSeen:
    """Tells whether hooks have come or gone since they were last seen, in a fraction of a pass."""

    def __init__(self, model: HookedModel) -> None:
        """See the hooks that are there now."""
        modules = {*model.hook_dict.values(), *_called_modules(model)}
        self._places: list[dict[int, Any]] = [
            hooks for each in modules for hooks in (each._forward_hooks, each._forward_pre_hooks)
        ]
        self._seen = self._keys()

    def changed(self) -> bool:
        """Whether hooks have come or gone since the last call."""
        before, self._seen = self._seen, self._keys()
        return before != self._seen

    def _keys(self) -> list[int]:
        # No two hooks of a process have the same key.
        return [key for hooks in self._places if hooks for key in hooks]


@contextmanager
def hooks_of_their_own(
    model: HookedModel, hooks: Sequence[tuple[str, Callable[..., Any]]]
) -> Generator[None]:
    """Add hooks, and remove these very hooks when the context ends, whatever ended before it.

    A HookedTransformer removes the hooks of the innermost open context instead, so contexts that
    end in another order would remove each other's.

    Raises:
        ModelError: the model has no hook point of a name.
    """
    known = model.hook_dict
    if missing := [name for name, _ in hooks if name not in known]:
        raise ModelError(
            f"{model_name(model)} has no hook point {missing[0]}, so that nothing can be changed "
            "there; use a layer and a place that the model has"
        )
    points = {name: known[name] for name, _ in hooks}
    with ExitStack() as stack:
        with _changing_hooks:
            before = {id(handle) for point in points.values() for handle in point.fwd_hooks}
            stack.enter_context(model.hooks(fwd_hooks=list(hooks)))
            added = [
                (point, handle)
                for point in points.values()
                for handle in point.fwd_hooks
                if id(handle) not in before
            ]
            for _, handle in added:
                handle.context_level = None
        try:
            yield
        finally:
            with _changing_hooks:
                for point, handle in added:
                    handle.hook.remove()
                    point.fwd_hooks = [each for each in point.fwd_hooks if each is not handle]


@contextmanager
def without_hooks(model: HookedModel) -> Generator[None]:
    """Take all foreign hooks off the model while the context lasts; then put them back in place.

    One thread at a time, since another would take the hooks of the first for hooks to put back.
    """
    with _changing_hooks:
        yield from _without_hooks(model)


def _without_hooks(model: HookedModel) -> Iterator[None]:
    points = list(model.hook_dict.values())
    listed = [list(point.fwd_hooks) for point in points]
    taken = [(hooks, key) for _, hooks, key in _foreign_hooks(model)]
    order = [(hooks, list(hooks.items())) for hooks in {id(h): h for h, _ in taken}.values()]
    foreign = {(id(hooks), key) for hooks, key in taken}
    for hooks, key in taken:
        del hooks[key]
    for point in points:
        point.fwd_hooks = [
            handle
            for handle in point.fwd_hooks
            if (id(point._forward_hooks), handle.hook.id) not in foreign
        ]
    try:
        yield
    finally:
        for hooks, items in order:
            before = dict(items)
            added = [(key, hook) for key, hook in hooks.items() if key not in before]
            hooks.clear()
            hooks.update([*items, *added])
        for point, handles in zip(points, listed, strict=True):
            point.fwd_hooks = handles


def _foreign_hooks(model: HookedModel) -> Iterator[tuple[nn.Module, dict[int, Any], int]]:
    """Yield each hook that does not belong to the libraries: its module, dict, and key there."""
    points = set(model.hook_dict.values())
    for point in points:
        # A caching hook comes from TransformerLens too, but its user reads it.
        own = {
            handle.hook.id
            for handle in point.fwd_hooks
            if handle.is_permanent and _is_own(getattr(handle, "user_hook", None))
        }
        for key in point._forward_hooks:
            if key not in own:
                yield point, point._forward_hooks, key
        for key, hook in point._forward_pre_hooks.items():
            if not _is_own(hook):
                yield point, point._forward_pre_hooks, key
    for module in _called_modules(model):
        if module in points:
            continue
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in hooks.items():
                if not _is_own(hook):
                    yield module, hooks, key


def _called_modules(model: HookedModel) -> set[Any]:
    """The modules that a pass calls: the model itself, and those inside it."""
    root: Any = cast("Any", model).original_model if is_bridge(model) else model
    return {model, *root.modules()}


def _is_own(hook: object) -> bool:
    name = getattr(hook, "__module__", None)
    return isinstance(name, str) and any(f"{name}.".startswith(f"{own}.") for own in OWN_HOOKS)
