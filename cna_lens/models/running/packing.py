"""Pack prompts that begin alike into one row of tokens, which holds their common beginning once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cna_lens.models.hooked_model import (
    HookedModel,
    carries_hooks,
    embedding_dtype,
    input_device,
    model_name,
)
from cna_lens.models.inside.paged_weights import paged_weights
from cna_lens.models.prompts.encoding import TokenIds
from cna_lens.models.running.batching import pad
from cna_lens.models.running.forward import SharedPrefix, forward_trunk, sliding_window
from cna_lens.models.running.memory import token_budget
from cna_lens.models.trial.tree_mask import (
    NOTHING_SHOWN,
    reads_other_prompts,
    refuses_tree_mask,
)
from cna_lens.models.trial.trial import tried

_log = logging.getLogger(__name__)

ROW_TOKENS = 96
"""Longer rows share more, but attention in a row grows with its square; 80 to 128 cost the same."""

PAGED_ROW_TOKENS = 384
"""For weights that are read from disk: the common beginning is computed in each row, since a pass
of its own would read all weights again; and matrices so large outweigh attention."""

WORTH_TRYING = 8
"""Packing must save an eighth of a full pass, since it is first tried on a few tokens."""

TRIED_TOKENS = 4
"""Tokens of each prompt in that trial."""

# Runs rows of prompts, and gives the activations at one place of each prompt.
Read = Callable[[Sequence[Sequence[TokenIds]], Sequence[int]], Float[Tensor, "prompt neuron"]]


@dataclass(frozen=True)
class Row:
    """Prompts that run in one row of tokens.

    Attributes:
        prompts: their places among all prompts, sorted by their tokens.
        length: the number of tokens in the row.
    """

    prompts: tuple[int, ...]
    length: int


def alone(prompts: Sequence[TokenIds]) -> list[Row]:
    """Put each prompt into a row of its own."""
    return [Row((place,), len(ids)) for place, ids in enumerate(prompts)]


def pack(prompts: Sequence[TokenIds], most: int) -> list[Row]:
    """Pack prompts that begin alike into rows of at most `most` tokens.

    A prompt longer than that gets a row of its own.

    >>> pack([(1, 2, 3), (7, 8), (1, 2, 4)], most=4)
    [Row(prompts=(0, 2), length=4), Row(prompts=(1,), length=2)]
    """
    rows: list[Row] = []
    for place in sorted(range(len(prompts)), key=prompts.__getitem__):
        ids = prompts[place]
        if rows:
            row = rows[-1]
            length = row.length + len(ids) - _shared(prompts[row.prompts[-1]], ids)
            if length <= most:
                rows[-1] = Row((*row.prompts, place), length)
                continue
        rows.append(Row((place,), len(ids)))
    return rows


def _shared(before: TokenIds, ids: TokenIds) -> int:
    """Count the leading tokens that two prompts share, without the last token of either.

    Each prompt thus keeps a token of its own.
    """
    inner = list(zip(before[:-1], ids[:-1], strict=False))
    return next((place for place, (a, b) in enumerate(inner) if a != b), len(inner))


@dataclass(frozen=True)
class PackedTokens:
    """Rows of tokens; each token attends to itself and to the tokens before it in its prompt.

    >>> packed = PackedTokens.of([[(5, 6, 7), (5, 6, 8)], [(9,)]], pad_id=0)
    >>> packed.ids.tolist()
    [[5, 6, 7, 8], [9, 0, 0, 0]]
    >>> packed.columns
    ((0, 1, 2), (0, 1, 3), (0,))
    >>> packed.order().tolist()
    [[0, 1, 2, 2], [0, 0, 0, 0]]
    >>> packed.sees()[0, 3].tolist()
    [True, True, False, True]

    Attributes:
        ids: token ids, right padded.
        mask: 1 on real tokens.
        rows: the row of each prompt.
        columns: the columns of each prompt's tokens in its row.
    """

    ids: Int64[Tensor, "row pos"]
    mask: Int64[Tensor, "row pos"]
    rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[TokenIds]], pad_id: int) -> PackedTokens:
        """Lay out rows of prompts; each row keeps the order that `pack` gives."""
        tokens, columns = zip(*map(_lay_out, rows), strict=True)
        ids, mask = pad(tokens, pad_id)
        return cls(
            ids,
            mask,
            tuple(place for place, row in enumerate(rows) for _ in row),
            tuple(path for paths in columns for path in paths),
        )

    @property
    def is_plain(self) -> bool:
        """Whether each row holds a single prompt."""
        return len(self.rows) == len(self.ids)

    def at(self, places: Sequence[int]) -> list[int]:
        """Give the column of one token of each prompt, from its place in the prompt."""
        return [path[place] for path, place in zip(self.columns, places, strict=True)]

    def order(self) -> Int64[Tensor, "row pos"]:
        """Give each token's place in its prompt."""
        order = torch.zeros_like(self.ids)
        for row, path in zip(self.rows, self.columns, strict=True):
            order[row, list(path)] = torch.arange(len(path))
        return order

    def sees(self) -> Bool[Tensor, "row pos pos"]:
        """Mark the tokens that each token attends to; padding attends to itself."""
        sees = torch.eye(self.ids.shape[1], dtype=torch.bool).repeat(len(self.ids), 1, 1)
        for row, path in zip(self.rows, self.columns, strict=True):
            at = torch.tensor(path)
            sees[row, at[:, None], at] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        return sees


def _lay_out(prompts: Sequence[TokenIds]) -> tuple[TokenIds, list[tuple[int, ...]]]:
    """Give the tokens of one row, and the columns of each prompt's tokens."""
    tokens: TokenIds = ()
    columns: list[tuple[int, ...]] = []
    before, path = (), ()
    for ids in prompts:
        shared = _shared(before, ids)
        path = (*path[:shared], *range(len(tokens), len(tokens) + len(ids) - shared))
        tokens += ids[shared:]
        columns.append(path)
        before = ids
    return tokens, columns


def rows_for(
    model: HookedModel, suffixes: Sequence[TokenIds], prefix: SharedPrefix, read: Read
) -> list[Row]:
    """Pack prompts that begin alike, where packing saves time and changes no activation.

    Args:
        model: the model.
        suffixes: the prompts' tokens after the prefix.
        prefix: the common beginning of all prompts.
        read: runs rows of prompts, and gives the activations at one place of each prompt.
    """
    is_paged = paged_weights(model) is not None
    single = alone(suffixes)
    packed = pack(suffixes, PAGED_ROW_TOKENS if is_paged else ROW_TOKENS)
    saved = sum(row.length for row in single) - sum(row.length for row in packed)
    longest = prefix.length + max(row.length for row in packed)
    if not is_paged and saved * WORTH_TRYING < token_budget(model, longest):
        return single
    if reason := cannot_pack(model, suffixes, longest, prefix, read):
        _log.info("%s: prompts run one a row, since %s", model_name(model), reason)
        return single
    return packed


def cannot_pack(
    model: HookedModel,
    suffixes: Sequence[TokenIds],
    longest: int,
    prefix: SharedPrefix,
    read: Read,
) -> str | None:
    """Say why a model cannot run several prompts in one row; None where it can.

    The configuration does not say whether a model respects a tree mask and given positions. The
    trial of the model shows it for rows that stand alone, unless its logits show nothing. In all
    other cases the same prompt runs alone and beside another, on a few tokens.

    Args:
        model: the model.
        suffixes: the prompts' tokens after the prefix.
        longest: tokens of the longest row, with the prefix.
        prefix: the common beginning of all prompts.
        read: runs rows of prompts, and gives the activations at one place of each prompt.
    """
    can = tried(model)
    if can.no_sharing:
        return can.no_sharing
    if can.no_packing not in (None, NOTHING_SHOWN):
        return can.no_packing
    if carries_hooks(model):
        return "a hook on the model may count rows or positions"
    window = sliding_window(model)
    if window is not None and window < longest:
        return f"a row of {longest} tokens is longer than the window of {window}"
    if not prefix.length and can.no_packing is None:
        return None
    first, last = min(suffixes)[:TRIED_TOKENS], max(suffixes)[:TRIED_TOKENS]
    places = [len(first) - 1, len(last) - 1, len(last) - 1]
    try:
        _, beside, by_itself = read([[first, last], [last]], places)
    except Exception as error:
        return refuses_tree_mask(model, error)
    tolerance = torch.finfo(by_itself.dtype).eps ** 0.5
    if (beside - by_itself).norm() <= tolerance * by_itself.norm():
        return None
    return reads_other_prompts(model)


def forward_rows(model: HookedModel, packed: PackedTokens, prefix: SharedPrefix) -> None:
    """Run rows of prompts after their prefix, for the hooks on the model.

    Args:
        model: the model; `cannot_pack` must be None for it where a row holds several prompts.
        packed: the rows.
        prefix: the common beginning of all prompts.
    """
    device = input_device(model)
    if packed.is_plain:
        mask, position_ids = prefix.mask(packed.mask), None
    else:
        mask = prefix.tree_mask(packed.sees(), embedding_dtype(model))
        position_ids = (prefix.length + packed.order()).to(device)
    forward_trunk(model, packed.ids.to(device), mask.to(device), prefix.read_only(), position_ids)
