"""Routing: which experts tokens were sent to, kept apart from how active their neurons were."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUTED = "cna_lens.routed"
"""Under this name a hook point's context tells which tokens it holds."""


@dataclass(frozen=True)
class Routed:
    """The tokens that one expert computes.

    Attributes:
        tokens: their places, batch and position on one axis.
        weights: what the expert's output is multiplied with for each.
        n_tokens: how many tokens the pass has.
    """

    tokens: Int[Tensor, " routed"]
    weights: Float[Tensor, " routed"]
    n_tokens: int


@dataclass(frozen=True)
class Router:
    """What the router of one layer decided for each token of a forward pass.

    >>> router = Router(torch.tensor([[0, 2], [2, 1]]), torch.tensor([[0.9, 0.1], [0.6, 0.4]]))
    >>> router.to(2).tokens.tolist(), router.to(2).weights.tolist()
    ([1, 0], [0.6000000238418579, 0.10000000149011612])

    Attributes:
        experts: the experts of each token, strongest first.
        weights: their route weights.
    """

    experts: Int[Tensor, "token slot"]
    weights: Float[Tensor, "token slot"]

    def to(self, expert: int) -> Routed:
        """The tokens of one expert, in the order in which Transformers computes them."""
        slots, tokens = torch.where((self.experts == expert).T)
        return Routed(tokens, self.weights[tokens, slots], len(self.experts))

    def at(self, tokens: Int[Tensor, " n"]) -> Router:
        """The decisions for some of the tokens."""
        tokens = tokens.to(self.experts.device)
        return Router(self.experts[tokens], self.weights[tokens])

    def chosen(self) -> list[int]:
        """The experts that any token goes to."""
        return self.experts.unique().tolist()


def routed_to(hook: object) -> Routed | None:
    """The tokens that a hook point holds where they are not all; None where they are."""
    return getattr(hook, "ctx", {}).get(ROUTED)
