"""Rankings made of others: ensembles, in units of a layer's mean, over the typical score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from scipy.stats import rankdata
from torch import Tensor

from cna_lens import InputError
from cna_lens.discovery import Collected, Needs, Ranking
from cna_lens.models import HookedModel, diverse_prompts, encode
from cna_lens.results import NeuronScores


@dataclass(frozen=True)
class On(Ranking):
    """Another ranking with other prompts in place of the positive ones. Cost: as there.

    Attributes:
        inner: a ranking that reads the positive prompts only.
        others: the negative prompts, or `diverse_prompts`.
    """

    inner: Ranking
    others: Literal["negative", "diverse"] = "negative"
    name: ClassVar[str] = "on"
    needs: ClassVar[Needs] = "gradients"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:
        """Raise what the inner ranking raises."""
        self.inner.check(model, n_positive, n_negative)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        prompts = collected.negative_prompts()
        if self.others == "diverse":
            prompts = encode(collected.model, diverse_prompts())
        found = self.inner.score(replace(collected, prompts=prompts))
        return collected.scored(self, found.values, found.unit)


class Combined(Ranking):
    """A ranking whose scores are computed from those of others alone."""

    needs: ClassVar[Needs] = "gradients"
    unit: ClassVar[str]

    def parts(self) -> tuple[Ranking, ...]:
        """The other rankings."""
        raise NotImplementedError

    def combine(self, found: Sequence[NeuronScores]) -> Tensor:
        """This ranking's scores, from those of its parts."""
        raise NotImplementedError

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:
        """Raise what a part raises."""
        for part in self.parts():
            part.check(model, n_positive, n_negative)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        values = self.combine([part.score(collected) for part in self.parts()])
        return collected.scored(self, values, self.unit)


@dataclass(frozen=True)
class Ensemble(Combined):
    r"""Mean rank in several rankings.

    $$s_i = \frac{1}{K} \sum_k \frac{r_{k,i}}{n}$$

    where $r_{k,i}$ is the rank of neuron i by the absolute scores of ranking k, 1 for the lowest of
    n.

    Source: parallel ensembles of Mondorf et al., arXiv 2510.06811, which combine scores of edges.
    Cost: the sum of its members' costs, with one reading of both sets of prompts for all of them.

    Attributes:
        members: the rankings.
    """

    members: tuple[Ranking, ...]
    name: ClassVar[str] = "ensemble"
    unit: ClassVar[str] = "rank"

    def __post_init__(self) -> None:
        """Require members."""
        if not self.members:
            raise InputError("an ensemble has no members; give at least one ranking")

    def parts(self) -> tuple[Ranking, ...]:
        """The members."""
        return self.members

    def combine(self, found: Sequence[NeuronScores]) -> Tensor:
        """Take the mean of the ranks."""
        ranks = torch.stack([torch.from_numpy(rankdata(each.values.abs())) for each in found])
        return ranks.mean(0) / ranks.shape[1]


@dataclass(frozen=True)
class InLayers(Combined):
    r"""Another ranking's absolute scores in units of their layer's mean.

    $$s_{l,j} = |s'_{l,j}| \Big/ \left(\frac{1}{d} \sum_i |s'_{l,i}|^q\right)^{1/q}$$

    It leaves the order within a layer as it is. Cost: that of the inner ranking.

    Attributes:
        inner: the other ranking.
        power: q, 1 for the mean and 2 for the root mean square.
    """

    inner: Ranking
    power: float = 1.0
    name: ClassVar[str] = "in_layers"
    unit: ClassVar[str] = "times its layer's mean"

    def parts(self) -> tuple[Ranking, ...]:
        """The inner ranking."""
        return (self.inner,)

    def combine(self, found: Sequence[NeuronScores]) -> Tensor:
        """Divide by each layer's mean."""
        (inner,) = found
        layers = [
            _relative(inner.values[begin:end].abs(), self.power)
            for begin, end in pairwise(inner.layout.starts)
        ]
        return torch.cat(layers)


@dataclass(frozen=True)
class OverTypical(Combined):
    r"""Another ranking's score on the positive prompts, over its score on other prompts.

    $$s_i = \frac{s_i(P) / \bar{s}(P)}{\epsilon + s_i(Q) / \bar{s}(Q)}$$

    where a bar is the mean over neurons, and Q are the negative prompts or `diverse_prompts`.
    Neurons on which every answer rests should fall. Cost: that of the inner ranking on both sets,
    with one reading of the positive and negative prompts.

    Attributes:
        inner: a ranking that reads the positive prompts only.
        others: which prompts are Q.
        smoothing: $\epsilon$.
    """

    inner: Ranking
    others: Literal["negative", "diverse"] = "negative"
    smoothing: float = 1.0
    name: ClassVar[str] = "over_typical"
    unit: ClassVar[str] = "ratio"

    def parts(self) -> tuple[Ranking, ...]:
        """The inner ranking on both sets of prompts."""
        return self.inner, On(self.inner, self.others)

    def combine(self, found: Sequence[NeuronScores]) -> Tensor:
        """Divide one by the other."""
        here, there = (_relative(each.values.abs()) for each in found)
        return here / (self.smoothing + there)


@dataclass(frozen=True)
class Sum(Combined):
    r"""The sum of several rankings' scores, each in units of its mean.

    $$s_i = \sum_k |s_{k,i}| / \bar{s}_k$$

    Cost: as for `Ensemble`.

    Attributes:
        members: the rankings.
    """

    members: tuple[Ranking, ...]
    name: ClassVar[str] = "sum"
    unit: ClassVar[str] = "times the mean"

    def parts(self) -> tuple[Ranking, ...]:
        """The members."""
        return self.members

    def combine(self, found: Sequence[NeuronScores]) -> Tensor:
        """Add them."""
        return torch.stack([_relative(each.values.abs()) for each in found]).sum(0)


def _relative(values: Tensor, power: float = 1.0) -> Tensor:
    """Values in units of their mean, or of another mean of powers; zeros stay zeros."""
    mean = values.pow(power).mean().pow(1 / power)
    return values / mean if bool(mean) else values
