"""Routing: which experts tokens were sent to, kept apart from how active their neurons were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from cna_lens.results.layout import Layout

if TYPE_CHECKING:
    import pandas as pd

ROUTED = "cna_lens.routed"
"""Under this name a hook point's context tells which tokens it holds."""

COLUMNS = 1 << 13


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


@dataclass(frozen=True)
class RoutingStats:
    r"""How often prompts' tokens were routed to each expert, and how active its neurons then were.

    The statistics of `collect` count what reaches the output, $w_e a_{e,j}$, and 0 where the
    expert e does not run. A neuron's mean can then differ between two sets because it is more
    active in one, or because its expert runs more often there; what is here tells the two apart.

    Attributes:
        layout: the model's neurons and experts.
        count: number of prompts.
        counts: on how many prompts each MLP computed the token, in the order of `layout.mlps`: all
            of them for what every token passes.
        weights: the sum of the weights with which it did.
        activations: the sum of each neuron's activation over these prompts, without the weights.
    """

    layout: Layout
    count: int
    counts: Int64[Tensor, " mlp"]
    weights: Float64[Tensor, " mlp"]
    activations: Float64[Tensor, " neuron"]

    @property
    def frequency(self) -> Float64[Tensor, " mlp"]:
        """The share of the prompts whose token each MLP computed."""
        return self.counts.double() / self.count

    @property
    def neuron_frequency(self) -> Float64[Tensor, " neuron"]:
        """The same for each neuron."""
        return self.frequency[self.layout.mlp_of]

    @property
    def unweighted_mean(self) -> Float64[Tensor, " neuron"]:
        """Each neuron's mean activation over the prompts on which its MLP ran; nan where none."""
        return self.activations / self.counts[self.layout.mlp_of]

    def merge(self, other: RoutingStats) -> RoutingStats:
        """The statistics of both sets of prompts together."""
        return RoutingStats(
            self.layout,
            self.count + other.count,
            self.counts + other.counts,
            self.weights + other.weights,
            self.activations + other.activations,
        )

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each routed expert: layer, expert, frequency, weight.

        The weight is the mean over the prompts that were routed to it.
        """
        import pandas as pd

        rows = [place for place, mlp in enumerate(self.layout.mlps) if mlp.expert is not None]
        mean_weight = self.weights / self.counts
        return pd.DataFrame(
            {
                "layer": [self.layout.mlps[row].layer for row in rows],
                "expert": [self.layout.mlps[row].expert for row in rows],
                "frequency": self.frequency[rows].numpy(),
                "weight": mean_weight[rows].numpy(),
            }
        )

    def __repr__(self) -> str:
        """One useful line."""
        experts = [place for place, mlp in enumerate(self.layout.mlps) if mlp.expert is not None]
        never = f"{int((self.counts[experts] == 0).sum())} never routed to"
        return f"RoutingStats({self.count} prompts, {len(experts)} experts, {never})"


def routing_of(
    activations: Float[Tensor, "prompt neuron"],
    weights: Float[Tensor, "prompt mlp"],
    layout: Layout,
) -> RoutingStats:
    """The routing of a batch, from weighted activations and the weights, 0 where not routed."""
    device = activations.device
    weights = weights.to(device, torch.float64)
    mlp_of = layout.mlp_of.to(device)
    sums: list[Tensor] = []
    # In pieces, so that only one of them is held in float64 at a time.
    for piece, mlps in zip(activations.split(COLUMNS, 1), mlp_of.split(COLUMNS), strict=True):
        weight = weights[:, mlps]
        ran = weight != 0
        sums.append((piece.double() / weight.where(ran, 1.0)).where(ran, 0.0).sum(0))
    return RoutingStats(
        layout,
        len(activations),
        (weights != 0).sum(0).cpu(),
        weights.sum(0).cpu(),
        torch.cat(sums).cpu(),
    )
