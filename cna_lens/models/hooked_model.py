"""What counts as a model, and what each has: a name, a device, hooks."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from cna_lens.errors import ModelError

OWN_HOOKS = (
    "transformer_lens",
    "transformers.utils.output_capturing",
    "cna_lens.models.trial.kv_cache",
)
"""Whose hooks belong to a model: what a bridge listens with, what Transformers leaves where it was
once asked for hidden states, and the translation of the cache."""


@runtime_checkable
class HookedModel(Protocol):
    """What cna_lens asks of a model; TransformerBridge and HookedTransformer both have it."""

    cfg: Any
    tokenizer: Any
    hook_dict: Mapping[str, Any]

    def hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Temporary hooks, gone when the context ends."""
        ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass."""
        ...


def check_model(model: object) -> None:
    """Raise ModelError unless activations can be read and changed on this model."""
    if not isinstance(model, HookedModel):
        raise ModelError(
            f"a {type(model).__name__} is no TransformerLens model; load it with "
            "cna_lens.load_model(name), or wrap it: "
            "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)"
        )
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"a {type(model).__name__} runs elsewhere, and its hooks can only read; "
            "load the model into this process with cna_lens.load_model(name)"
        )
    if model.training or getattr(getattr(model, "original_model", None), "training", False):
        raise ModelError("the model is in training mode (dropout is on); call model.eval() first")


def model_name(model: HookedModel) -> str:
    """The name under which the model was loaded."""
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)


def is_bridge(model: HookedModel) -> bool:
    """Whether the model wraps a Hugging Face model."""
    return hasattr(model, "original_model")


def input_device(model: HookedModel) -> torch.device:
    """The device on which token ids are expected: that of the embedding."""
    return next(cast("nn.Module", model).parameters()).device


def embedding_dtype(model: HookedModel) -> torch.dtype:
    """The precision in which hidden states begin."""
    return next(cast("nn.Module", model).parameters()).dtype


def carries_hooks(model: HookedModel) -> bool:
    """Whether the model has hooks that are not its libraries' own, on whatever module."""
    return any(True for _ in _foreign_hooks(model))


@contextmanager
def without_hooks(model: HookedModel) -> Generator[None]:
    """Run the model as if nobody had put a hook on it; afterwards every hook is where it was."""
    points = list(model.hook_dict.values())
    listed = [list(point.fwd_hooks) for point in points]
    taken = list(_foreign_hooks(model))
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
            added = hooks.items() - dict(items).items()
            hooks.clear()
            hooks.update([*items, *added])
        for point, handles in zip(points, listed, strict=True):
            point.fwd_hooks = handles


def _foreign_hooks(model: HookedModel) -> Iterator[tuple[dict[int, Any], int]]:
    """The hooks that are not the libraries' own: the dict that holds each, and its key there."""
    points = set(model.hook_dict.values())
    for point in points:
        # A caching hook is TransformerLens's too, but its user's to read.
        own = {
            handle.hook.id
            for handle in point.fwd_hooks
            if handle.is_permanent and _is_own(getattr(handle, "user_hook", None))
        }
        for key in point._forward_hooks:
            if key not in own:
                yield point._forward_hooks, key
    root: Any = cast("Any", model).original_model if is_bridge(model) else model
    for module in root.modules():
        if module in points:
            continue
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in hooks.items():
                if not _is_own(hook):
                    yield hooks, key


def _is_own(hook: object) -> bool:
    return getattr(hook, "__module__", "").startswith(OWN_HOOKS)
