"""Which tokens are steered: all, the prompt, its last token, or the generated ones."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn

from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, is_bridge
from cna_lens.models.trial.kv_cache import cache_among, cached_tokens

Positions = Literal["all", "prompt", "last_prompt", "from_last_prompt", "generated"]

_rows: ContextVar[tuple[int, ...] | None] = ContextVar("rows", default=None)
_whole_prompts: ContextVar[bool] = ContextVar("whole_prompts", default=False)
_prompt_lengths: ContextVar[Int64[Tensor, " batch"] | None] = ContextVar(
    "prompt_lengths", default=None
)


def check_positions(positions: str) -> None:
    """Raise InputError unless this is the name of a scope."""
    if positions not in get_args(Positions):
        raise InputError(
            f"positions is {positions!r}, expected one of {', '.join(get_args(Positions))}"
        )


@contextmanager
def prompt_lengths(
    lengths: Sequence[int] | Int[Tensor, " batch"], rows: Sequence[int] | None = None
) -> Generator[None]:
    """State the prompt length of each row, for forward passes within this context.

    Steering at single positions needs to know where a prompt ends. `cna_lens.generate` states it
    by itself. A plain forward pass, or a call of the model's own `generate`, is assumed to begin
    with the prompt, up to the padding that its attention mask marks. A forward pass over prompt and
    answer together needs this context, and so does one with padding on the right but without a
    mask. Padding on the left needs the mask; a HookedTransformer that pads there makes its own.

    Args:
        lengths: real tokens of each row's prompt, without padding.
        rows: the prompt that each row belongs to, where rows leave the batch between passes; by
            default their places in the batch.
    """
    token = _prompt_lengths.set(torch.as_tensor(lengths, dtype=torch.long))
    rows_token = _rows.set(None if rows is None else tuple(rows))
    try:
        yield
    finally:
        _rows.reset(rows_token)
        _prompt_lengths.reset(token)


@contextmanager
def whole_prompts() -> Generator[None]:
    """Disable prefix sharing: steering here depends on later tokens."""
    token = _whole_prompts.set(True)
    try:
        yield
    finally:
        _whole_prompts.reset(token)


def needs_whole_prompts() -> bool:
    """Whether a surrounding context disables prefix sharing."""
    return _whole_prompts.get()


def stated_prompt_lengths() -> Int64[Tensor, " batch"] | None:
    """Give the lengths that the surrounding `prompt_lengths` states; None outside of one."""
    return _prompt_lengths.get()


def steered_positions(
    positions: Positions,
    mask: Int[Tensor, "batch whole_pos"],
    new: int,
    lengths: Int64[Tensor, " batch"],
) -> Bool[Tensor, "batch pos"]:
    """Mark the positions that are steered, among the last `new` ones.

    >>> mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])  # left padded
    >>> steered_positions("last_prompt", mask, new=4, lengths=torch.tensor([2, 3]))
    tensor([[False, False,  True, False],
            [False, False,  True, False]])

    Args:
        positions: the scope.
        mask: 1 on real tokens, over cached and new positions.
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


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass, and the positions that are steered in it.

    Attributes:
        mask: 1 on real tokens, over cached and new positions.
        steered: marks the steered positions, among those that the pass computes.
        lengths: real tokens of each row's prompt.
        rows: the prompt that each row belongs to.
        begins: whether nothing is cached yet.
    """

    mask: Int[Tensor, "batch whole_pos"]
    steered: Bool[Tensor, "batch pos"]
    lengths: Int64[Tensor, " batch"]
    rows: tuple[int, ...]
    begins: bool

    def token(self, position: int) -> Bool[Tensor, "batch pos"]:
        """Mark one token of each prompt in this pass; -1 is the prompt's last."""
        order = self.mask.long().cumsum(1) - 1
        lengths = self.lengths.to(self.mask.device)
        place = lengths + position if position < 0 else torch.full_like(lengths, position)
        return ((order == place[:, None]) & self.mask.bool())[:, -self.steered.shape[1] :]


class PositionTracker:
    """Follows the forward passes, and works out the steered positions of each."""

    def __init__(self, positions: Positions, model: HookedModel) -> None:
        """Start before the first pass."""
        self.scope: Positions = positions
        self.model = model
        self.lengths: Int64[Tensor, " batch"] | None = None
        self.previous: Tensor | None = None
        self.pads: Int64[Tensor, " batch"] | None = None
        self.forward_pass: ForwardPass | None = None

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Work out the steered positions at the start of a forward pass."""
        inputs = _first_present(kwargs, "input_ids", "inputs_embeds", "input")
        inputs = args[0] if inputs is None else inputs
        if not isinstance(inputs, Tensor):
            raise InputError(
                f"positions={self.scope!r}: this pass is given a {type(inputs).__name__}, whose "
                "tokens are not known before it runs; give token ids, as model.to_tokens makes them"
            )
        batch, new = inputs.shape[:2]
        given = kwargs.get("attention_mask")
        past = cached_tokens(cache_among(kwargs))
        is_masked = given is not None and given.ndim == 2
        whole = torch.ones((batch, past + new), dtype=torch.long, device=inputs.device)
        lengths = stated_prompt_lengths()
        if not is_masked and lengths is None:
            if not past:
                self.pads = self._padding_before(inputs)
            if self.pads is not None and len(self.pads) == batch:
                places = torch.arange(past + new, device=inputs.device)
                whole = (places >= self.pads[:, None]).long()
        mask = cast("Tensor", given if is_masked else whole)
        if lengths is None:
            lengths = self._inferred_lengths(inputs, mask, past, is_masked=is_masked)
        if len(lengths) != batch:
            raise InputError(
                f"there are {len(lengths)} prompt lengths for a batch of {batch}; give each row one"
            )
        rows = _rows.get() or tuple(range(batch))
        if len(rows) != batch:
            raise InputError(f"there are {len(rows)} rows for a batch of {batch}; name each row")
        steered = steered_positions(self.scope, mask, new, lengths)
        self.forward_pass = ForwardPass(mask, steered, lengths, rows, begins=past == 0)

    def after(self, *_: Any) -> None:
        """Note that the forward pass has ended."""
        self.forward_pass = None

    def pass_of(self, activation: Float[Tensor, "batch pos width"]) -> ForwardPass:
        """Give the forward pass that an activation belongs to.

        Raises:
            ModelError: the pass did not state its prompts.
        """
        return self._pass_where(lambda found: found.steered.shape == activation.shape[:2])

    def pass_over(self, n_tokens: int) -> ForwardPass:
        """Give the forward pass with this number of tokens, batch and position on one axis.

        Raises:
            ModelError: the pass did not state its prompts.
        """
        return self._pass_where(lambda found: found.steered.numel() == n_tokens)

    def _pass_where(self, fits: Callable[[ForwardPass], bool]) -> ForwardPass:
        found = self.forward_pass
        if found is None or not fits(found):
            fix = "" if self.scope == "all" else ", or use positions='all'"
            raise ModelError(
                f"this steering (positions={self.scope!r}) needs to know where the prompt ends, "
                "and this pass does not state it; call the model itself or cna_lens.generate"
                f"{fix}"
            )
        return found

    def _padding_before(self, inputs: Tensor) -> Int64[Tensor, " batch"] | None:
        """Count the padding before each prompt, where the model itself leaves it out.

        Raises:
            InputError: the model reads it like any other token.
        """
        tokenizer = self.model.tokenizer
        pad = getattr(tokenizer, "pad_token_id", None)
        if pad is None or inputs.ndim != 2 or inputs.is_floating_point():
            return None
        before = (inputs == pad).long().cumprod(1).sum(1)
        begins_texts = pad in (
            getattr(tokenizer, "bos_token_id", None),
            getattr(tokenizer, "eos_token_id", None),
        )
        if begins_texts and bool((before == 1).all()):
            return None
        if not len(rows := before.nonzero().flatten().tolist()):
            return None
        # A HookedTransformer makes the mask by itself, from the padding token.
        if not is_bridge(self.model) and getattr(tokenizer, "padding_side", None) == "left":
            return before - (before > 0).long() if begins_texts else before
        raise InputError(
            f"positions={self.scope!r}: row {rows[0]} begins with the padding token {pad}, and "
            "without an attention mask the model reads it as part of the prompt; pass "
            "attention_mask"
        )

    def _check_no_padding(self, inputs: Tensor) -> None:
        tokenizer = self.model.tokenizer
        pad = getattr(tokenizer, "pad_token_id", None)
        if pad is None or inputs.ndim != 2 or inputs.is_floating_point():
            return
        behind = (inputs == pad).flip(1).long().cumprod(1).sum(1)
        # Where texts end with the padding token too, one at the end of every row is the text's. Of
        # a padded batch the longest row has no padding.
        ends_texts = pad == getattr(tokenizer, "eos_token_id", None)
        if ends_texts and bool((behind == 1).all()):
            return
        if len(rows := behind.nonzero().flatten().tolist()):
            raise InputError(
                f"positions={self.scope!r}: row {rows[0]} ends with the padding token {pad}, and "
                "without an attention mask nothing says where its prompt ends; pass "
                "attention_mask, or state the lengths with cna_lens.prompt_lengths(...)"
            )

    def _inferred_lengths(
        self, inputs: Tensor, mask: Tensor, past: int, *, is_masked: bool
    ) -> Tensor:
        if past and self.lengths is not None:
            return self.lengths
        grown = self.previous
        self.previous = inputs
        if grown is not None and _extends_by_one(inputs, grown):
            raise InputError(
                f"positions={self.scope!r}: this pass repeats the last with one more token, and "
                "without a KV cache that token may belong to the prompt or to the answer; use the "
                "cache, or state the prompt's length with cna_lens.prompt_lengths(...)"
            )
        if not is_masked and not past:
            self._check_no_padding(inputs)
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
