"""Expected gradients: baselines drawn from the negative prompts, at random points of the path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from cna_lens import InputError, LogOdds
from cna_lens.discovery import Collected, GradientBatch, Needs, Ranking, over_batches
from cna_lens.models import HookedModel, hook_name
from cna_lens.results import NeuronScores


@dataclass(frozen=True)
class ExpectedGradients(Ranking):
    r"""Gradients between a positive and a random negative prompt's activations, layer by layer.

    $$s_{l,j} = \mathbb{E}_{p \in P,\, q \in N,\, \alpha \sim U(0, 1)} \left[
    \left(a_{l,j}(p) - a_{l,j}(q)\right) \frac{\partial m}{\partial a_{l,j}}
    \left(a_l(q) + \alpha (a_l(p) - a_l(q))\right)\right]$$

    at the token that is read; later layers are computed from the layer that is set. With `squared`,
    $s^2$ is the expectation of the square. Other tokens of two prompts do not correspond, so that
    there are no baselines for them.

    Source: Erion et al., arXiv 1906.10670, on activations instead of inputs. Cost: one
    forward pass for each prompt; for each draw and layer one forward pass and the upper part of a
    backward pass for each positive prompt that is read.

    Attributes:
        metric: log-odds of the behaviour's first tokens.
        draws: pairs of a baseline and a point for each positive prompt and layer.
        squared: take the mean of squares.
        n_prompts: so many positive prompts are read, the first ones.
        seed: of baselines and points.
    """

    metric: LogOdds = field(default_factory=LogOdds)
    draws: int = 1
    squared: bool = False
    n_prompts: int = 10
    seed: int = 0
    name: ClassVar[str] = "expected_gradients"
    needs: ClassVar[Needs] = "activations"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise InputError where the metric does not fit."""
        self.metric.of(model, n_positive)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron.

        Raises:
            InputError: the activations of each prompt were not kept.
        """
        reader, prompts = collected.model_and_prompts()
        if collected.activations is None:
            raise InputError(
                "expected gradients need every prompt's activations, and only their means were "
                "kept; give a ranking that holds this one needs = 'activations'"
            )
        ids = prompts.ids[: self.n_prompts]
        positive, negative = (each.matrix().double() for each in collected.activations)
        values, starts = self.metric.of(reader.model, len(ids)), collected.positive.layout.starts
        generator = torch.Generator().manual_seed(self.seed)
        # Drawn for all prompts at once, so that batches do not matter.
        drawn = (len(ids), len(starts) - 1, self.draws)
        baselines = torch.randint(len(negative), drawn, generator=generator)
        shares = torch.rand(drawn, generator=generator, dtype=torch.float64)

        def of_batch(batch: GradientBatch) -> Tensor:
            here = positive[batch.prompts]
            summed = torch.zeros(here.shape[1], dtype=torch.float64)
            for layer, (begin, end) in enumerate(pairwise(starts)):
                for draw in range(self.draws):
                    at = batch.prompts, layer, draw
                    difference = (here - negative[baselines[at]])[:, begin:end]
                    back = (shares[at][:, None] - 1) * difference
                    hook = hook_name(layer), _moved(batch, back)
                    found = batch.run(values, [hook], [layer]).gradients * difference
                    summed[begin:end] += (found.pow(2) if self.squared else found).sum(0)
            return summed

        sums = list(over_batches(reader, ids, of_batch, "expected gradients"))
        mean = torch.stack(sums).sum(0) / (len(ids) * self.draws)
        return collected.scored(self, mean.sqrt() if self.squared else mean, "nats")


def _moved(batch: GradientBatch, by: Tensor) -> Callable[..., Tensor]:
    def moved(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        found = activation.clone()
        found[torch.arange(len(found)), batch.read] += by.to(found)
        return found

    return moved
