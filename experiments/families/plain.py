"""The slow definition: a plain Hugging Face model, one prompt at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[int, Tensor], Tensor]
"""Gives a layer's down projection its new input, from (layer, activation)."""


@contextmanager
def changed(projections: Sequence[nn.Module | None], change: Change) -> Generator[None]:
    """Run the model with `change(layer, activation)` in place of each down projection's input."""
    handles = [
        projection.register_forward_pre_hook(
            lambda _, args, layer=layer: (change(layer, args[0]), *args[1:])
        )
        for layer, projection in enumerate(projections)
        if projection is not None
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def activations(
    model: nn.Module, projections: Sequence[nn.Module | None], ids: Sequence[int]
) -> dict[int, Tensor]:
    """The input of each layer's down projection, as [pos, width]."""
    seen: dict[int, Tensor] = {}

    def note(layer: int, activation: Tensor) -> Tensor:
        seen[layer] = activation[0] if activation.ndim == 3 else activation
        return activation

    with changed(projections, note):
        model(torch.tensor([ids]))
    return seen


def logits(model: Any, ids: Sequence[int]) -> Tensor:
    """The logits at each position."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def greedy(
    model: Any, ids: Sequence[int], max_new_tokens: int, stops: Collection[int]
) -> list[int]:
    """The greedy answer; each token is computed from the whole sequence again."""
    answer: list[int] = []
    while len(answer) < max_new_tokens:
        token = int(logits(model, [*ids, *answer])[-1].argmax())
        if token in stops:
            break
        answer.append(token)
    return answer
