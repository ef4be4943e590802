"""Streaming statistics of activations: memory does not grow with the number of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.results.layout import Layout
from cna_lens.results.provenance import Source

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 1 << 13
"""How many neurons are held in float64 at a time."""


@dataclass(frozen=True)
class ActivationStats:
    r"""Count, mean and variance of each neuron's activation over a set of prompts.

    Sums are kept in float64. Two sets merge exactly (Chan, Golub and LeVeque, 1979): with
    $\delta = \bar{b} - \bar{a}$ and $n = n_a + n_b$,

    $$\bar{x} = \bar{a} + \delta n_b / n, \qquad M = M_a + M_b + \delta^2 n_a n_b / n.$$

    >>> stats = ActivationStats.of(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), Layout((2,)))
    >>> stats.mean.tolist(), stats.variance.tolist()
    ([2.0, 0.0], [2.0, 0.0])

    Attributes:
        layout: the neuron at each place of the last axis.
        count: number of prompts.
        mean: mean activation of each neuron.
        squared_deviations: sum of squared deviations from the mean, M above.
        source: where the activations came from, None where that is not known.
        routing: how often tokens were routed to each expert, and how active the expert's neurons
            were on those tokens; None for a model without experts.
    """

    layout: Layout
    count: int
    mean: Float64[Tensor, " neuron"]
    squared_deviations: Float64[Tensor, " neuron"]
    source: Source | None = None
    routing: RoutingStats | None = None

    def __post_init__(self) -> None:
        """Reject a mean that does not fit the layout."""
        if self.mean.shape != (self.layout.n_neurons,):
            raise InputError(
                f"the mean has shape {tuple(self.mean.shape)}, "
                f"the layout has {self.layout.n_neurons} neurons"
            )

    @classmethod
    def of(
        cls,
        activations: Float[Tensor, "prompt neuron"],
        layout: Layout,
        source: Source | None = None,
    ) -> ActivationStats:
        """Compute the statistics of a matrix of activations, one prompt a row."""
        if len(activations) == 0:
            raise InputError("statistics need at least one prompt, there was none")
        return cls(layout, *_moments(activations), source)

    @property
    def mean_where_routed(self) -> Float64[Tensor, " neuron"]:
        """Each neuron's mean over the prompts on which its MLP ran, 0 where it never did."""
        if self.routing is None:
            return self.mean
        frequency = self.routing.neuron_frequency
        return self.mean / frequency.where(frequency > 0, 1.0)

    @property
    def variance(self) -> Float64[Tensor, " neuron"]:
        """Unbiased variance of each neuron's activation.

        Raises:
            InputError: there are fewer than two prompts.
        """
        if self.count < 2:
            raise InputError(f"a variance needs at least 2 prompts, there is {self.count}")
        return self.squared_deviations / (self.count - 1)

    def merge(self, other: ActivationStats) -> ActivationStats:
        """Compute the statistics of both sets of prompts together; they have no single source.

        Raises:
            InputError: the two are of models of different shapes.
        """
        if self.layout != other.layout:
            raise InputError(
                f"statistics of {self.layout} cannot be merged with those of {other.layout}"
            )
        moments = _merge(
            (self.count, self.mean, self.squared_deviations),
            (other.count, other.mean, other.squared_deviations),
        )
        routing = self.routing and other.routing and self.routing.merge(other.routing)
        return ActivationStats(self.layout, *moments, routing=routing)

    def __repr__(self) -> str:
        """Name the counts and the model in one line."""
        model = self.source.model if self.source else "unknown"
        return f"ActivationStats({self.count} prompts, {self.mean.numel()} neurons, model {model})"


@dataclass(frozen=True)
class RoutingStats:
    r"""How often tokens were routed to each expert, and how active its neurons were on them.

    The statistics of `collect` count what reaches the output, $w_e a_{e,j}$, and 0 where the
    expert e does not run. The means of a neuron in two sets can then differ for two reasons: the
    neuron is more active in one set, or its expert runs more often there. These statistics tell
    the two apart.

    Attributes:
        layout: the model's neurons and experts.
        count: number of prompts.
        counts: on how many prompts each MLP computed the token, in the order of `layout.mlps`; all
            prompts for an MLP that every token passes.
        weights: the sum of each MLP's route weights over these prompts.
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
        """The share of the prompts whose token each neuron's MLP computed."""
        return self.frequency[self.layout.mlp_of]

    @property
    def unweighted_mean(self) -> Float64[Tensor, " neuron"]:
        """Each neuron's mean activation over the prompts on which its MLP ran; nan where none."""
        return self.activations / self.counts[self.layout.mlp_of]

    def merge(self, other: RoutingStats) -> RoutingStats:
        """Compute the statistics of both sets of prompts together."""
        return RoutingStats(
            self.layout,
            self.count + other.count,
            self.counts + other.counts,
            self.weights + other.weights,
            self.activations + other.activations,
        )

    def to_frame(self) -> pd.DataFrame:
        """Tabulate layer, expert, frequency and weight, one routed expert a row.

        The weight is the mean over the prompts that were routed to the expert.
        """
        import pandas as pd

        rows, mlps = self._experts, self.layout.mlps
        return pd.DataFrame(
            {
                "layer": [mlps[row].layer for row in rows],
                "expert": [mlps[row].expert for row in rows],
                "frequency": self.frequency[rows].numpy(),
                "weight": (self.weights / self.counts)[rows].numpy(),
            }
        )

    @property
    def _experts(self) -> list[int]:
        return [place for place, mlp in enumerate(self.layout.mlps) if mlp.expert is not None]

    def __repr__(self) -> str:
        """Name the counts in one line."""
        never = f"{int((self.counts[self._experts] == 0).sum())} never routed to"
        return f"RoutingStats({self.count} prompts, {len(self._experts)} experts, {never})"


@runtime_checkable
class Reducer(Protocol):
    """Takes activations batch by batch, and keeps what a caller needs of them."""

    def update(
        self,
        rows: Sequence[int],
        activations: Float[Tensor, "prompt neuron"],
        layout: Layout,
        route_weights: Float[Tensor, "prompt mlp"] | None = None,
    ) -> None:
        """Add the activations of some prompts, on whatever device they lie.

        Args:
            rows: the prompts' places in their set.
            activations: the neurons' activations, multiplied with the route weights of experts.
            layout: the neuron at each place of the last axis.
            route_weights: each MLP's route weight, in the order of `layout.mlps`, 0 where the token
                is not routed to it; None for a model without experts.
        """
        ...


class RunningMoments:
    """Gathers an `ActivationStats` from batches; holds two vectors, however many prompts."""

    def __init__(self, source: Source) -> None:
        """Begin with no prompts of this source."""
        self._source = source
        self._moments: _Moments | None = None
        self._layout = Layout(())
        self._routing: RoutingStats | None = None

    def update(
        self,
        rows: Sequence[int],  # noqa: ARG002 (a mean does not depend on the order)
        activations: Float[Tensor, "prompt neuron"],
        layout: Layout,
        route_weights: Float[Tensor, "prompt mlp"] | None = None,
    ) -> None:
        """Add a batch."""
        if route_weights is not None:
            routing = routing_of(activations, route_weights, layout)
            self._routing = self._routing.merge(routing) if self._routing else routing
        batch = _moments(activations)
        self._moments = _merge(self._moments, batch) if self._moments else batch
        self._layout = layout

    def stats(self) -> ActivationStats:
        """Return the statistics of all batches so far.

        Raises:
            InputError: there was no batch.
        """
        if self._moments is None:
            raise InputError("statistics need at least one prompt, there was none")
        count, mean, squared_deviations = self._moments
        return ActivationStats(
            self._layout, count, mean.cpu(), squared_deviations.cpu(), self._source, self._routing
        )


def routing_of(
    activations: Float[Tensor, "prompt neuron"],
    weights: Float[Tensor, "prompt mlp"],
    layout: Layout,
) -> RoutingStats:
    """Compute a batch's routing from weighted activations and route weights."""
    device = activations.device
    weights = weights.to(device, torch.float64)
    sums: list[Tensor] = []
    pieces = zip(
        activations.split(COLUMNS, 1), layout.mlp_of.to(device).split(COLUMNS), strict=True
    )
    for piece, mlps in pieces:
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


# Count, mean, and sum of squared deviations.
_Moments = tuple[int, Float64[Tensor, " neuron"], Float64[Tensor, " neuron"]]


def _moments(activations: Float[Tensor, "prompt neuron"]) -> _Moments:
    means: list[Tensor] = []
    squared_deviations: list[Tensor] = []
    for piece in activations.split(COLUMNS, dim=1):
        values = piece.to(torch.float64)
        means.append(values.mean(0))
        squared_deviations.append(((values - means[-1]) ** 2).sum(0))
    return len(activations), torch.cat(means), torch.cat(squared_deviations)


def _merge(a: _Moments, b: _Moments) -> _Moments:
    count = a[0] + b[0]
    delta = b[1] - a[1]
    mean = a[1] + delta * (b[0] / count)
    return count, mean, a[2] + b[2] + delta**2 * (a[0] * b[0] / count)
