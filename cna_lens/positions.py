"""Which tokens are steered: everything, the prompt, its last token, or what is generated."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from cna_lens.errors import InputError, ModelError

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


_prompt_ends: ContextVar[Bool[Tensor, "row pos"] | None] = ContextVar("prompt_ends", default=None)


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


@contextmanager
def prompt_ends(ends: Bool[Tensor, "row pos"]) -> Generator[None]:
    """Say which tokens are a prompt's last, for passes over prompts alone, several in a row.

    Args:
        ends: True at the last token of each prompt.
    """
    token = _prompt_ends.set(ends)
    try:
        yield
    finally:
        _prompt_ends.reset(token)


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
    after_last = mask.long().cumsum(1) - lengths.to(mask.device)[:, None]
    return (_chosen(positions, after_last) & real)[:, mask.shape[1] - new :]


def _chosen(
    positions: Positions, after_last: Int[Tensor, "batch pos"]
) -> Bool[Tensor, "batch pos"]:
    """By how many tokens after the prompt's last one each is, negative within the prompt."""
    return {
        "all": torch.ones_like(after_last, dtype=torch.bool),
        "prompt": after_last <= 0,
        "last_prompt": after_last == 0,
        "from_last_prompt": after_last >= 0,
        "generated": after_last > 0,
    }[positions]


class PositionTracker:
    """Follows the forward passes, and knows for each which of its positions are steered."""

    def __init__(self, positions: Positions) -> None:
        """Begin before the first pass."""
        self.scope: Positions = positions
        self.lengths: Int64[Tensor, " batch"] | None = None
        self.previous: Tensor | None = None
        self.steered: Tensor | None = None

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Work out the steered positions of the forward pass that begins."""
        ends = _prompt_ends.get()
        if ends is not None:
            self.steered = _chosen(self.scope, ends.long() - 1)
            return
        inputs = _first_present(kwargs, "input_ids", "inputs_embeds", "input")
        inputs = args[0] if inputs is None else inputs
        batch, new = inputs.shape[:2]
        cache = _first_present(kwargs, "past_key_values", "past_kv_cache")
        mask = kwargs.get("attention_mask")
        past = _cached_length(cache)
        if mask is None or mask.ndim != 2:
            mask = torch.ones((batch, past + new), dtype=torch.long, device=inputs.device)
        lengths = stated_prompt_lengths()
        if lengths is None:
            lengths = self._inferred_lengths(inputs, mask, past)
        if len(lengths) != batch:
            raise InputError(
                f"there are {len(lengths)} prompt lengths for a batch of {batch}; give one a row"
            )
        self.steered = steered_positions(self.scope, mask, new, lengths)

    def after(self, *_: Any) -> None:
        """The forward pass has ended."""
        self.steered = None

    def steered_in(self, activation: Float[Tensor, "batch pos d_mlp"]) -> Bool[Tensor, "batch pos"]:
        """Which positions of this pass are steered.

        Raises:
            ModelError: the pass did not say what its prompts are.
        """
        if self.steered is None or self.steered.shape != activation.shape[:2]:
            raise ModelError(
                f"positions={self.scope!r} needs to know where the prompt ends, and this pass does "
                "not tell; run the model by calling it or by cna_lens.generate, or use "
                "positions='all'"
            )
        return self.steered.to(activation.device)

    def _inferred_lengths(self, inputs: Tensor, mask: Tensor, past: int) -> Tensor:
        if past and self.lengths is not None:
            return self.lengths
        grown = self.previous
        self.previous = inputs
        if grown is not None and _extends_by_one(inputs, grown):
            raise InputError(
                f"positions={self.scope!r}: this pass repeats the one before with one token more, "
                "and without a KV cache it cannot be told whether that token is prompt or answer; "
                "use the cache, or state it with cna_lens.prompt_lengths(...)"
            )
        self.lengths = mask.sum(1)
        return self.lengths


def _extends_by_one(inputs: Tensor, before: Tensor) -> bool:
    return (
        inputs.ndim == 2
        and inputs.shape[0] == before.shape[0]
        and inputs.shape[1] == before.shape[1] + 1
        and torch.equal(inputs[:, :-1], before)
    )


def _first_present(kwargs: dict[str, Any], *names: str) -> Any:
    return next((kwargs[name] for name in names if kwargs.get(name) is not None), None)


def _cached_length(cache: Any) -> int:
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0].past_keys.shape[1])
