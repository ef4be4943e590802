"""Routing: the experts that tokens are sent to, apart from their neurons' activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

ROUTED = "cna_lens.routed"
"""The key in a hook point's context under which its tokens stand."""


@dataclass(frozen=True)
class Routed:
    """The tokens that one expert computes.

    Attributes:
        tokens: their places, batch and position on one axis.
        weights: the route weight of each, which multiplies the expert's output.
        n_tokens: the number of tokens in the pass.
    """

    tokens: Int[Tensor, " routed"]
    weights: Float[Tensor, " routed"]
    n_tokens: int


@dataclass(frozen=True)
class Router:
    """The decisions of one layer's router for each token of a forward pass.

    >>> router = Router(torch.tensor([[0, 2], [2, 1]]), torch.tensor([[0.9, 0.1], [0.6, 0.4]]))
    >>> router.to(2).tokens.tolist(), router.to(2).weights.tolist()
    ([1, 0], [0.6000000238418579, 0.10000000149011612])

    Attributes:
        experts: the experts of each token, largest weight first.
        weights: their route weights.
    """

    experts: Int[Tensor, "token slot"]
    weights: Float[Tensor, "token slot"]

    def to(self, expert: int) -> Routed:
        """Select the tokens of one expert, in the order in which Transformers computes them."""
        slots, tokens = torch.where((self.experts == expert).T)
        return Routed(tokens, self.weights[tokens, slots], len(self.experts))

    def at(self, tokens: Int[Tensor, " n"]) -> Router:
        """Select the decisions for some of the tokens."""
        tokens = tokens.to(self.experts.device)
        return Router(self.experts[tokens], self.weights[tokens])

    def chosen(self) -> list[int]:
        """List the experts that receive a token."""
        return self.experts.unique().tolist()


def routed_to(hook: object) -> Routed | None:
    """Give the tokens that a hook point holds; None where it holds all of them."""
    return getattr(hook, "ctx", {}).get(ROUTED)
