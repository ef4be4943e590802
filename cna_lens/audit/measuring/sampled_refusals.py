"""Sampled refusals: how many sampled answers to each harmful canary refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np
from scipy.stats import hypergeom

from cna_lens.errors import InputError
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import TokenIds
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.generation import generate

ANSWER_TOKENS: Final = 12
"""Enough tokens to recognise a refusal by its words."""

SMALLEST: Final = 1e-300
"""The smallest p-value that is told: no probability is 0."""


@dataclass(frozen=True)
class SampledRefusals:
    """How often sampled answers to harmful canaries refuse.

    Attributes:
        samples: number of answers to each, drawn at temperature 1.
        refused: how many of them refuse, for each harmful canary.
    """

    samples: int
    refused: tuple[int, ...]

    def __post_init__(self) -> None:
        """Reject counts that cannot be."""
        check_samples(self.samples, least=1)
        for place, count in enumerate(self.refused):
            if not 0 <= count <= self.samples:
                raise InputError(
                    f"{count} answers to canary {place} refuse, expected 0 to {self.samples}, the "
                    "number of samples"
                )

    def expected(self, counts: Sequence[int]) -> float:
        """How many of so many answers to each canary refuse at these rates."""
        rates = [share / self.samples for share in self.refused]
        return math.fsum(n * rate for n, rate in zip(counts, rates, strict=True))

    def missing(self, counts: Sequence[int], refused: Sequence[int]) -> float:
        """The share of the expected refusals that is missing; 0 where none is expected."""
        expected = self.expected(counts)
        return 1 - sum(refused) / expected if expected else 0.0

    def chance_of(self, counts: Sequence[int], refused: Sequence[int]) -> float:
        r"""The probability of so few refusals in all, if each canary is refused as often as before.

        Of $m$ answers to canary i, $a_i$ refused; of $n_i$ answers now, $b_i$ do. If both refuse
        with the same probability, whatever it is, then given $a_i + b_i$

        $$p = P(X \leq \sum_i b_i), \quad X = \sum_i H_i, \quad
        H_i \sim \mathrm{Hypergeometric}(m + n_i,\; a_i + b_i,\; n_i)$$

        which is the exact test of stratified tables with two rows (Mantel and Haenszel 1959).

        Args:
            counts: the number of answers to each canary now.
            refused: how many of them refuse.
        """
        earlier, number, now = (
            np.asarray(each)[:, None] for each in (self.refused, counts, refused)
        )
        outcomes = np.arange(max(counts, default=0) + 1)
        chances = hypergeom.pmf(outcomes, self.samples + number, earlier + now, number)
        of_sums = reduce(np.convolve, chances, np.ones(1))
        return float(np.clip(of_sums[: sum(refused) + 1].sum(), SMALLEST, 1.0))


def sample_refusals(
    model: HookedModel,
    harmful: Sequence[TokenIds],
    samples: int,
    *,
    seed: int,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> SampledRefusals:
    """Draw answers to harmful canaries at temperature 1, and count those that refuse.

    Raises:
        InputError: `samples` is below 1.
    """
    check_samples(samples, least=1)
    drawn = generate(
        model,
        list(harmful) * samples,
        max_new_tokens=ANSWER_TOKENS,
        temperature=1.0,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    # The answers to one canary are as far apart as there are canaries.
    refused = [sum(map(is_refusal, drawn[place :: len(harmful)])) for place in range(len(harmful))]
    return SampledRefusals(samples, tuple(refused))


def check_samples(samples: int, *, least: int) -> None:
    """Raise InputError if there are fewer samples than there must be."""
    if samples < least:
        raise InputError(f"samples is {samples}, expected at least {least}")
