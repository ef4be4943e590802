"""The Hugging Face model inside a bridge, computing without the bridge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.experts import unwrapped

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""The attributes of a module that hold its hooks."""


@dataclass(frozen=True, eq=False)
class PlainModel:
    """A copy of a bridge's model that consists of Transformers' own modules.

    The copies share their parameters with the bridge, so they take no memory. They carry no hooks,
    but those of the parts that are kept as they are in the bridge.

    Attributes:
        module: the whole model.
        copies: the copy of each Transformers module that the bridge wraps or keeps.
    """

    module: nn.Module
    copies: Mapping[nn.Module, nn.Module]

    @classmethod
    def inside(
        cls,
        model: HookedModel,
        kept: Callable[[nn.Module], bool] = lambda _: False,
        attention: str | None = None,
    ) -> PlainModel:
        """Copy the modules without their wrappers; the bridge stays as it is.

        Args:
            model: the bridge.
            kept: whether a part of the bridge stays in the copy, with its wrapper and all within.
            attention: Transformers' name of another way to compute attention, such as "sdpa".
        """
        copies: dict[nn.Module, nn.Module] = {}
        plain = _plain(cast("Any", model).original_model, copies, kept)
        if attention is not None:
            _set_attention(copies.values(), attention)
        return cls(plain, copies)

    def logits(self, ids: Int64[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Compute the logits of every position, for whole prompts without padding."""
        output = self.module(ids, use_cache=False)
        # TransformerLens's own models give the logits themselves.
        return output if isinstance(output, Tensor) else output.logits

    def first_layer_that_differs(
        self, model: HookedModel, ids: Int64[Tensor, "batch pos"], tolerance: float
    ) -> int | None:
        """Find the first layer whose output differs from the bridge's; None where all agree.

        Args:
            model: the bridge.
            ids: token ids, without padding.
            tolerance: relative error that counts as rounding.
        """
        blocks = list(cast("Any", model).blocks)
        own = [self.copies[unwrapped(block)] for block in blocks]
        with torch.no_grad():
            bridged = _outputs(blocks, lambda: model.forward(ids, return_type="logits"))
            plain = _outputs(own, lambda: self.logits(ids))
        for layer, (found, expected) in enumerate(zip(bridged, plain, strict=True)):
            if not relative_error(found, expected) <= tolerance:
                return layer
        return None


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Divide the norm of the difference by that of the expected tensor; 0 where both are 0."""
    scale = expected.double().norm()
    error = (found.to(expected.device).double() - expected.double()).norm()
    return float(error / scale) if scale else float(error)


def _plain(
    wrapped: nn.Module, copies: dict[nn.Module, nn.Module], kept: Callable[[nn.Module], bool]
) -> nn.Module:
    if kept(wrapped):
        return wrapped
    module = cast("nn.Module", unwrapped(wrapped))
    if module not in copies:
        # Stored before its children are copied, since they may hold this module.
        copies[module] = plain = copy.copy(module)
        own = vars(module)
        vars(plain).update(
            {hooks: type(own[hooks])() for hooks in HOOKS},
            # A rotary embedding may lengthen its buffers, and notes their length beside them.
            _buffers=dict(own["_buffers"]),
            _modules={
                name: None if child is None else _plain(child, copies, kept)
                for name, child in own["_modules"].items()
            },
        )
    return copies[module]


def _set_attention(modules: Iterable[nn.Module], attention: str) -> None:
    """Give modules copies of their configurations, in which attention is computed in this way."""
    same: dict[int, Any] = {}
    for module in modules:
        for name, value in list(vars(module).items()):
            if hasattr(value, "_attn_implementation") and not isinstance(value, nn.Module):
                # One memory for all copies, since modules share their configurations.
                vars(module)[name] = copied = copy.deepcopy(value, same)
                copied._attn_implementation = attention


def _outputs(modules: list[nn.Module], run: Callable[[], object]) -> list[Tensor]:
    found: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        found[module] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as stack:
        for module in modules:
            stack.enter_context(module.register_forward_hook(note))
        run()
    return [found[module] for module in modules]
