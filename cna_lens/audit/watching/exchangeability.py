r"""A sequential test of exchangeability: are new requests distributed as the earlier ones?

If nothing changes, requests are exchangeable: all orders are equally likely. Then the rank of each
new value among all values so far, with ties broken at random, is uniform on [0, 1] and independent
of the earlier ranks (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005,
section 2.5). The capital of a gambler who bets on such ranks at fair odds is a martingale. The
probability that it ever reaches $1/\alpha$ times its start is at most $\alpha$ (Ville 1939),
however long the test runs and whenever anyone looks at it.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

JUMP: Final = 0.01
"""The share of the capital that moves from each bet to all of them, at each request."""

DEPTH: Final = 3
"""Bets are on halves, quarters and eighths of [0, 1]."""

OUTSIDE: Final = 0.1
"""The share of a bet that stays on the ranks outside its interval."""


def ranks(
    counts: Int64[Tensor, "neuron bin"],
    bins: Int64[Tensor, " neuron"],
    ties: Float64[Tensor, " neuron"],
) -> Float64[Tensor, " neuron"]:
    r"""The share of each neuron's values, the new one included, that are above the new one.

    $$p = \frac{\#\{b' > b\} + \tau \, \#\{b' = b\}}{\#}$$

    >>> ranks(torch.tensor([[1, 2, 1]]), torch.tensor([1]), torch.tensor([0.5]).double()).item()
    0.5

    Args:
        counts: the number of values in each bin so far, the new value included.
        bins: the bin of the new value.
        ties: uniform random numbers τ that break ties.
    """
    place = torch.arange(counts.shape[1])
    above = counts.where(place > bins[:, None], 0).sum(1)
    same = counts.gather(1, bins[:, None]).squeeze(1)
    return (above + ties * same) / counts.sum(1)


def fair_bets() -> Float64[Tensor, "cell bet"]:
    """The payment of each bet for a rank in each eighth of [0, 1]; every bet pays 1 on average.

    The first bet always pays 1: its capital waits. Each other bet is on the ranks in one half,
    quarter or eighth of [0, 1].
    """
    cells = torch.arange(2**DEPTH)
    bets = [torch.ones(2**DEPTH, dtype=torch.float64)]
    for depth in range(1, DEPTH + 1):
        for interval in range(2**depth):
            inside = cells // 2 ** (DEPTH - depth) == interval
            width = 2.0**-depth
            pays = torch.where(inside, (1 - OUTSIDE) / width, OUTSIDE / (1 - width))
            bets.append(pays.double())
    return torch.stack(bets, dim=1)


class JumpingBets:
    """Bets on the ranks of several neurons, each neuron with its own capital.

    At each request a share of each bet's capital moves to all bets. Losses of one period then do
    not weaken the bets of the next, and the change may come at any time (after Vovk, Petej,
    Nouretdinov, Ahlberg, Carlsson and Gammerman, arXiv 2102.10439). Every capital starts at 1.
    Memory does not grow with the number of requests.
    """

    def __init__(self, n_neurons: int) -> None:
        """Start with a capital of 1 for each neuron."""
        self._pays = fair_bets().log()
        n_bets = self._pays.shape[1]
        self._capital = torch.full((n_neurons, n_bets), -math.log(n_bets), dtype=torch.float64)

    def bet(self, ranks: Float64[Tensor, " neuron"]) -> None:
        """Bet on the ranks of one request."""
        cell = (ranks * len(self._pays)).long().clamp_max(len(self._pays) - 1)
        paid = self._capital + self._pays[cell]
        moved = paid.logsumexp(1, keepdim=True) + math.log(JUMP / paid.shape[1])
        self._capital = torch.logaddexp(paid + math.log1p(-JUMP), moved.expand_as(paid))

    @property
    def of_neurons(self) -> Float64[Tensor, " neuron"]:
        """The logarithm of each neuron's capital."""
        return self._capital.logsumexp(1)

    @property
    def together(self) -> float:
        r"""The logarithm of the largest capital divided by the number n of neurons.

        The probability that this capital ever reaches $1/\alpha$ is at most $\alpha$, however the
        neurons depend on each other: one neuron's capital must reach $n/\alpha$, which each does
        with a probability of at most $\alpha/n$. The mean of the capitals has no such bound,
        because each is a martingale only with respect to its own ranks.
        """
        return float(self.of_neurons.max()) - math.log(len(self._capital))
