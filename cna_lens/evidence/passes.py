"""Passes over a model, counted at its last block."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from cna_lens.models.hooked_model import HookedModel


@dataclass(frozen=True)
class Cost:
    """What the scores of a ranking took.

    Passes are counted at the last block, in units of all tokens of the discovery prompts, positive
    and negative. Padding counts. Tokens that prompts share, as those of a chat template, may pass
    once for all of them, so that a pass over all prompts can count less than 1.

    Attributes:
        forward: tokens that enter the last block.
        backward: tokens whose gradient comes back to the last block's output.
        seconds: the time.
    """

    forward: float
    backward: float
    seconds: float

    def __add__(self, other: Cost) -> Cost:
        """What both took together."""
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.seconds + other.seconds,
        )


@contextmanager
def counted(model: HookedModel, n_tokens: int) -> Generator[Callable[[], Cost]]:
    """Count the tokens that pass the last block forward and backward, and take the time.

    >>> with counted(tiny_model, n_tokens=4) as cost:
    ...     logits = tiny_model(torch.tensor([[5, 6]]))
    >>> cost().forward, cost().backward
    (0.5, 0.0)

    Args:
        model: a TransformerBridge or HookedTransformer.
        n_tokens: the number of tokens that count as one pass.
    """
    passed = {"forward": 0, "backward": 0}

    def enters(_: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        passed["forward"] += _n_tokens((*inputs, *named.values()))

    def leaves(_: Any, inputs: Any, output: Any) -> None:  # noqa: ARG001
        parts = output if isinstance(output, tuple) else (output,)
        residual = next(each for each in parts if isinstance(each, Tensor))
        n = _n_tokens(parts)
        if residual.requires_grad:
            residual.register_hook(lambda _: passed.update(backward=passed["backward"] + n))

    begun, ended = time.perf_counter(), None
    block = cast("Any", model).blocks[-1]
    hooks = (
        block.register_forward_pre_hook(enters, with_kwargs=True),
        block.register_forward_hook(leaves),
    )
    try:
        yield lambda: Cost(
            passed["forward"] / n_tokens,
            passed["backward"] / n_tokens,
            (ended or time.perf_counter()) - begun,
        )
    finally:
        ended = time.perf_counter()
        for hook in hooks:
            hook.remove()


def _n_tokens(values: Sequence[Any]) -> int:
    residual = next(each for each in values if isinstance(each, Tensor))
    return residual.shape[:-1].numel()
