r"""A sequential test: is what comes now drawn from what came before?

Were nothing changed, requests would be exchangeable: in any order equally likely. Then the rank of
each new value among all values so far, ties broken at random, is uniform on [0, 1] and independent
of the earlier ranks (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005,
section 2.5). Who bets on such ranks at fair odds has a capital that is a martingale, and the chance
that it ever reaches $1/\alpha$ times its start is at most $\alpha$ (Ville 1939), however long the
test runs and whenever it is looked at.
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
"""What a bet keeps for the ranks outside of its interval."""


def ranks(
    counts: Int64[Tensor, "neuron bin"],
    bins: Int64[Tensor, " neuron"],
    ties: Float64[Tensor, " neuron"],
) -> Float64[Tensor, " neuron"]:
    r"""The share of each neuron's values above the new one, which is counted among them.

    $$p = \frac{\#\{b' > b\} + \tau \, \#\{b' = b\}}{\#}$$

    >>> ranks(torch.tensor([[1, 2, 1]]), torch.tensor([1]), torch.tensor([0.5]).double()).item()
    0.5

    Args:
        counts: of all values so far, the new one included.
        bins: of the new one.
        ties: uniform random numbers.
    """
    place = torch.arange(counts.shape[1])
    above = counts.where(place > bins[:, None], 0).sum(1)
    same = counts.gather(1, bins[:, None]).squeeze(1)
    return (above + ties * same) / counts.sum(1)


def fair_bets() -> Float64[Tensor, "cell bet"]:
    """What each bet pays for a rank in each eighth; every bet pays 1 on average.

    The first bet pays 1 always: capital that waits. Each other one expects ranks in one half,
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
    """Capital that is bet on the ranks of several neurons, each for itself.

    At each request a share of each bet's capital moves to all bets, so that what was lost on one
    period is not missed in the next: the change may come at any time (after Vovk, Petej,
    Nouretdinov, Ahlberg, Carlsson and Gammerman, arXiv 2102.10439). Every capital starts at 1.
    Memory does not grow with the number of requests.
    """

    def __init__(self, n_neurons: int) -> None:
        """Before the first request."""
        self._pays = fair_bets().log()
        n_bets = self._pays.shape[1]
        self._capital = torch.full((n_neurons, n_bets), -math.log(n_bets), dtype=torch.float64)

    def bet(self, ranks: Float64[Tensor, " neuron"]) -> None:
        """Take the ranks of one request."""
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
        r"""The logarithm of the largest capital, shared among all n neurons.

        The chance that it ever reaches $1/\alpha$ is at most $\alpha$, however the neurons depend
        on each other: one capital then reaches $n/\alpha$, which each does with a chance of at most
        $\alpha/n$. A mean of the capitals would not do: each is a martingale to itself alone.
        """
        return float(self.of_neurons.max()) - math.log(len(self._capital))
