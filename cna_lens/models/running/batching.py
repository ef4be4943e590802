"""Which prompts run together: shared prefixes, buckets of like length, padding."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.models.prompts.encoding import TokenIds

BatchSize = Literal["auto"] | int


def shared_prefix_length(prompts: Sequence[TokenIds], at_most: int | None = None) -> int:
    """Count the leading tokens that all prompts have in common.

    At least one token of the shortest prompt stays outside, so that every prompt has a token left
    to run.

    >>> shared_prefix_length([(1, 2, 3, 4), (1, 2, 5)])
    2
    >>> shared_prefix_length([(1, 2), (1, 2, 3)])
    1
    >>> shared_prefix_length([(1, 2, 3, 4), (1, 2, 3, 5)], at_most=2)
    2
    """
    # In sorted order, all prompts between the first and the last share what these two share.
    first, last = min(prompts), max(prompts)
    common = next(
        (place for place, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    shortest = min(map(len, prompts))
    return min(common, shortest - 1, shortest if at_most is None else at_most)


def length_buckets(
    lengths: Sequence[int], token_budget: int | None = None, max_prompts: int | None = None
) -> list[list[int]]:
    """Group prompts of similar length, each group within the budget of tokens after padding.

    A prompt longer than the budget gets a group of its own.

    >>> length_buckets([5, 2, 9, 2], token_budget=10)
    [[1, 3], [0], [2]]
    >>> length_buckets([5, 2, 9, 2], max_prompts=3)
    [[1, 3, 0], [2]]
    """
    buckets: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        size = len(buckets[-1]) + 1 if buckets else 1
        fits = token_budget is None or lengths[index] * size <= token_budget
        if buckets and fits and (max_prompts is None or size <= max_prompts):
            buckets[-1].append(index)
        else:
            buckets.append([index])
    return buckets


def split_by_length(lengths: Sequence[int], pass_cost: int, at_most: int) -> list[slice]:
    """Split rows, which begin with the shortest, so that passes over them compute fewest tokens.

    Each pass computes its rows padded to the last of them.

    >>> split_by_length([5, 6, 30, 31], pass_cost=10, at_most=100)
    [slice(0, 2, None), slice(2, 4, None)]
    >>> split_by_length([5, 6, 30, 31], pass_cost=100, at_most=1000)
    [slice(0, 4, None)]

    Args:
        lengths: tokens of each row, in ascending order.
        pass_cost: tokens that could be computed in the time that a pass takes in any case.
        at_most: tokens of a pass over several rows, with padding.
    """
    # The cheapest way to read the first rows, and where its last pass begins.
    costs, starts = [0], [0]
    for end, longest in enumerate(lengths, 1):
        options = [
            (costs[start] + pass_cost + (end - start) * longest, start)
            for start in range(end)
            if start == end - 1 or (end - start) * longest <= at_most
        ]
        cost, start = min(options)
        costs.append(cost)
        starts.append(start)
    slices: list[slice] = []
    end = len(lengths)
    while end:
        slices.append(slice(starts[end], end))
        end = starts[end]
    return slices[::-1]


def pad(
    prompts: Sequence[TokenIds], pad_id: int, side: str = "right"
) -> tuple[Int64[Tensor, "batch pos"], Int64[Tensor, "batch pos"]]:
    """Pad token ids to one length; the mask is 1 on real tokens.

    >>> pad([(7,), (8, 9)], pad_id=0)[0].tolist()
    [[7, 0], [8, 9]]
    """
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        real = slice(0, len(prompt)) if side == "right" else slice(length - len(prompt), length)
        ids[row, real] = torch.tensor(prompt)
        mask[row, real] = 1
    return ids, mask


def check_batch_size(batch_size: object) -> None:
    """Raise InputError unless a batch size is "auto" or a positive whole number."""
    if batch_size != "auto" and not is_whole(batch_size, 1):
        raise InputError(
            f"batch_size is {batch_size!r}, expected 'auto' or a whole number from 1 on"
        )


def is_whole(value: object, least: int | None = None) -> bool:
    """Whether something is a whole number, of Python or NumPy, and large enough.

    >>> is_whole(3), is_whole(3.0), is_whole(True), is_whole(0, least=1)
    (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        return False
    return least is None or not value < least
