"""Permutations of the labels, and their correlations with activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.evidence.resampling import ActivationSets, counts, shuffled_labels
from cna_lens.evidence.selection import Selection

ROUNDING = 1e-10
"""Correlations closer than this are equal: sums of the same numbers in another order."""

ENTRIES = 1 << 22
"""Correlations that are held at once."""

Labels = Float64[Tensor, "permutation prompt"]


def label_permutations(sets: ActivationSets, at_most: int, seed: int) -> tuple[Labels, bool]:
    """Permutations of the labels, 1 for positive and 0 for negative, and whether they are all.

    All are taken once where there are no more than `at_most`; otherwise `at_most` are drawn.
    Paired labels are swapped within pairs.
    """
    n_positive, n_prompts = sets.n_positive, sets.n_positive + sets.n_negative
    if sets.paired:
        if 2**n_positive <= at_most:
            kept = torch.tensor(list(product((1.0, 0.0), repeat=n_positive)), dtype=torch.float64)
            return torch.cat([kept, 1 - kept], dim=1), True
    elif math.comb(n_prompts, n_positive) <= at_most:
        chosen = torch.tensor(list(combinations(range(n_prompts), n_positive)))
        return counts(chosen, n_prompts), True
    generator = torch.Generator().manual_seed(seed)
    return shuffled_labels(sets, at_most, generator).positive, False


def correlations(
    labels: Labels, activations: Float64[Tensor, "prompt n"], *, paired: bool
) -> tuple[Float64[Tensor, "permutation n"], Float64[Tensor, " n"]]:
    r"""The correlation r of labels and activations, and the factor from r to the contrast.

    With $n_P$ and $n_N$ prompts on the sides and deviations z of a neuron's activations from
    their mean, the contrast is $r \|z\| \sqrt{n / (n_P n_N)}$. For n pairs with differences d,
    $r = \sum \pm d / \sqrt{n \sum d^2}$, and the contrast is $r \sqrt{\sum d^2 / n}$. A neuron
    whose activation never changes has r = 0.

    >>> labels = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    >>> r, scale = correlations(labels, torch.tensor([[3.0], [0.0], [0.0]]).double(), paired=False)
    >>> round(float(r), 6), round(float(r * scale), 6)
    (1.0, 3.0)
    """
    if paired:
        n = activations.shape[0] // 2
        weights = 2 * labels[:, :n] - 1
        values = activations[:n] - activations[n:]
        spread, to_contrast = math.sqrt(n), 1 / math.sqrt(n)
    else:
        weights = labels
        values = activations - activations.mean(0)
        n_prompts, n_positive = activations.shape[0], int(labels[0].sum())
        spread = math.sqrt(n_positive * (n_prompts - n_positive) / n_prompts)
        to_contrast = 1 / spread
    norms = values.norm(dim=0)
    # The mean of equal numbers need not be that number to the last bit.
    unchanging = norms <= 1e-12 * activations.norm(dim=0)
    norms = norms.masked_fill(unchanging, 0.0)
    directions = (values / norms).masked_fill(unchanging, 0.0)
    return weights @ directions / spread, norms * to_contrast


def count_at_least(
    values: Float64[Tensor, "..."], thresholds: Float64[Tensor, " n"]
) -> Int64[Tensor, " n"]:
    """Count the values that reach each threshold, up to rounding.

    >>> count_at_least(torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 5.0]).double())
    tensor([2, 0])
    """
    in_order = np.sort(values.numpy(), axis=None)
    below = np.searchsorted(in_order, thresholds.numpy() - ROUNDING)
    return torch.from_numpy(in_order.size - below)


@dataclass(frozen=True)
class ShuffledCounts:
    """How many shuffled statistics reach the true statistic of each tested neuron.

    Attributes:
        alone: among the neuron's own.
        pooled: among those of all tested neurons.
        largest: among the largest of each shuffling.
        as_strong: for each shuffling, how many contrasts reach a given strength.
    """

    alone: Int64[Tensor, " tested"]
    pooled: Int64[Tensor, " tested"]
    largest: Int64[Tensor, " tested"]
    as_strong: Int64[Tensor, " permutation"]


def true_correlations(sets: ActivationSets) -> Float64[Tensor, " neuron"]:
    """Each neuron's correlation with the labels as they are."""
    labels = torch.zeros((1, sets.n_positive + sets.n_negative), dtype=torch.float64)
    labels[:, : sets.n_positive] = 1
    blocks = [
        correlations(labels, activations, paired=sets.paired)[0][0]
        for _, activations in sets.columns()
    ]
    return torch.cat(blocks)


def count_shuffled(
    sets: ActivationSets,
    labels: Labels,
    selection: Selection,
    tested: Bool[Tensor, " neuron"],
    strength: Float64[Tensor, " neuron"],
    *,
    weakest: float,
    progress: bool,
) -> ShuffledCounts:
    """Compare the statistics of shuffled labels with the true ones, a block of neurons at a time.

    Args:
        sets: the two sets.
        labels: shuffled.
        selection: its sign defines the strength of a contrast.
        tested: the family of neurons.
        strength: of the true correlations.
        weakest: the least strength of a contrast that `as_strong` counts.
        progress: show a progress bar.
    """
    alone = torch.zeros(tested.shape, dtype=torch.int64)
    pooled = torch.zeros(int(tested.sum()), dtype=torch.int64)
    largest = torch.full((len(labels),), -torch.inf, dtype=torch.float64)
    as_strong = torch.zeros(len(labels), dtype=torch.int64)
    at_once = max(1, ENTRIES // len(labels))
    with tqdm(total=len(tested), unit="neuron", disable=not progress, leave=False) as bar:
        for block, activations in sets.columns(at_once):
            bar.update(block.stop - block.start)
            family = tested[block]
            if not bool(family.any()):
                continue
            shuffled, scale = correlations(labels, activations[:, family], paired=sets.paired)
            shuffled = selection.strength(shuffled)
            reached = shuffled >= strength[block][family] - ROUNDING
            alone[block] = alone[block].masked_scatter(family, reached.sum(0))
            pooled += count_at_least(shuffled, strength[tested])
            largest = torch.maximum(largest, shuffled.max(1).values)
            threshold = (weakest / scale).nan_to_num(0.0, posinf=torch.inf)
            as_strong += (shuffled >= threshold - ROUNDING).sum(1)
    return ShuffledCounts(
        alone[tested], pooled, count_at_least(largest, strength[tested]), as_strong
    )
