"""Several prompts in one row of tokens, in which what they have in common stands once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from cna_lens.batching import TokenIds, pad


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
    """Each prompt in a row of its own."""
    return [Row((place,), len(ids)) for place, ids in enumerate(prompts)]


def pack(prompts: Sequence[TokenIds], most: int) -> list[Row]:
    """Prompts that begin alike, in rows of at most `most` tokens.

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
    """The number of leading tokens that two prompts share, their last ones always left out.

    So each prompt has a token of its own, and none is an empty path.
    """
    inner = list(zip(before[:-1], ids[:-1], strict=False))
    return next((place for place, (a, b) in enumerate(inner) if a != b), len(inner))


@dataclass(frozen=True)
class PackedTokens:
    """Rows of tokens, each a forest: a token sees itself and those before it in its prompt.

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
        columns: where in its row the tokens of each prompt stand.
    """

    ids: Int64[Tensor, "row pos"]
    mask: Int64[Tensor, "row pos"]
    rows: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Sequence[TokenIds]], pad_id: int) -> PackedTokens:
        """Lay out rows of prompts, each row in the order in which `pack` has them."""
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
        """Whether each row holds one prompt alone."""
        return len(self.rows) == len(self.ids)

    def at(self, places: Sequence[int]) -> list[int]:
        """The column of one token of each prompt, by its place in the prompt."""
        return [path[place] for path, place in zip(self.columns, places, strict=True)]

    def order(self) -> Int64[Tensor, "row pos"]:
        """The place of each token in its prompt."""
        order = torch.zeros_like(self.ids)
        for row, path in zip(self.rows, self.columns, strict=True):
            order[row, list(path)] = torch.arange(len(path))
        return order

    def sees(self) -> Bool[Tensor, "row pos pos"]:
        """Which tokens each token attends to; padding sees itself."""
        sees = torch.eye(self.ids.shape[1], dtype=torch.bool).repeat(len(self.ids), 1, 1)
        for row, path in zip(self.rows, self.columns, strict=True):
            at = torch.tensor(path)
            sees[row, at[:, None], at] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        return sees


def _lay_out(prompts: Sequence[TokenIds]) -> tuple[TokenIds, list[tuple[int, ...]]]:
    """One row's tokens, and where among them those of each prompt stand."""
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
