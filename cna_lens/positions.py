"""Which tokens are steered: everything, the prompt, its last token, or what is generated."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from cna_lens.errors import InputError

Positions = Literal["all", "prompt", "last_prompt", "from_last_prompt", "generated"]

_prompt_lengths: ContextVar[Int64[Tensor, " batch"] | None] = ContextVar(
    "prompt_lengths", default=None
)


def check_positions(positions: str) -> None:
    """Raise InputError unless the positions have a name that is known."""
    if positions not in get_args(Positions):
        raise InputError(
            f"positions is {positions!r}, expected one of {', '.join(get_args(Positions))}"
        )


@contextmanager
def prompt_lengths(lengths: Sequence[int] | Int[Tensor, " batch"]) -> Generator[None]:
    """Say how many tokens of each row are its prompt, for forward passes within this context.

    Steering at single positions needs to know where a prompt ends. `cna_lens.generate` says so
    itself, and a plain forward pass or a call of the model's own `generate` is taken to begin
    with the prompt; a forward pass over prompt and answer together needs this context.

    Args:
        lengths: real tokens of each row's prompt, without padding.
    """
    token = _prompt_lengths.set(torch.as_tensor(lengths, dtype=torch.long))
    try:
        yield
    finally:
        _prompt_lengths.reset(token)


def stated_prompt_lengths() -> Int64[Tensor, " batch"] | None:
    """What the surrounding `prompt_lengths` says, None outside of one."""
    return _prompt_lengths.get()


def steered_positions(
    positions: Positions,
    mask: Int[Tensor, "batch whole_pos"],
    new: int,
    lengths: Int64[Tensor, " batch"],
) -> Bool[Tensor, "batch pos"]:
    """Which of the last `new` positions are steered.

    >>> mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])  # left padded
    >>> steered_positions("last_prompt", mask, new=4, lengths=torch.tensor([2, 3]))
    tensor([[False, False,  True, False],
            [False, False,  True, False]])

    Args:
        positions: the scope.
        mask: 1 on real tokens, over what is cached and what is new.
        new: the number of positions that the forward pass computes.
        lengths: real tokens of each row's prompt.
    """
    real = mask.bool()
    order = mask.long().cumsum(1) - 1
    last = (lengths.to(mask.device) - 1)[:, None]
    chosen = {
        "all": torch.ones_like(real),
        "prompt": order <= last,
        "last_prompt": order == last,
        "from_last_prompt": order >= last,
        "generated": order > last,
    }[positions]
    return (chosen & real)[:, mask.shape[1] - new :]
