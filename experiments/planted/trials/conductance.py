"""Conductance: integrated gradients of the embeddings, through one neuron."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cna_lens import LogOdds
from cna_lens.discovery import Collected, GradientBatch, Needs, Ranking, over_batches
from cna_lens.models import HookedModel
from cna_lens.results import NeuronScores
from experiments.planted.trials.of_metric import own_tokens, total_of


@dataclass(frozen=True)
class Conductance(Ranking):
    r"""Change of the metric that flows through a neuron while the embeddings come from a baseline.

    $$c_{i,t}(p) = \int_0^1 \frac{\partial m}{\partial a_{i,t}}
    \frac{d a_{i,t}}{d \alpha} \, d\alpha, \qquad
    x(\alpha) = x' + \alpha (x - x'), \qquad s_i = \frac{1}{|P|} \sum_p \sum_t c_{i,t}(p)$$

    by the trapezoid rule on the activations: the sum over steps of the mean gradient at both ends
    times the change of the activation, which is how Shrikumar et al. compute it. With `squared`,
    $s_i^2$ is the sum of $c_{i,t}(p)^2$ instead. The tokens that all positive prompts begin with
    stay as they are.

    Source: Dhamdhere et al., arXiv 1805.12233; Shrikumar et al., arXiv 1807.09946.
    Cost: n + 1 forward and backward passes for each positive prompt that is read, n the steps.

    Attributes:
        metric: log-odds of the behaviour's first tokens.
        steps: n.
        baseline: x' is "zero", or the "mean" embedding of the negative prompts' tokens.
        squared: sum squares over tokens and prompts.
        n_prompts: so many positive prompts are read, the first ones.
    """

    metric: LogOdds = field(default_factory=LogOdds)
    steps: int = 8
    baseline: Literal["zero", "mean"] = "mean"
    squared: bool = False
    n_prompts: int = 10
    name: ClassVar[str] = "conductance"
    needs: ClassVar[Needs] = "gradients"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise InputError where the metric does not fit."""
        self.metric.of(model, n_positive)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        reader, prompts = collected.model_and_prompts()
        ids = prompts.ids[: self.n_prompts]
        total, start = total_of(self.metric, reader.model, ids), own_tokens(ids)
        # A shared prefix is computed once, and its tokens have to stay as they are; without one
        # (on a model that cannot share) they are left alone by `start`.
        at = _embedding(collected, self.baseline)

        def of_batch(batch: GradientBatch) -> Tensor:
            first, begin = int(batch.last.min()), start(batch)

            def at_share(share: float) -> tuple[Tensor, Tensor]:
                found = batch.at_all_tokens(
                    lambda logits: total(batch, logits, first),
                    first,
                    [("hook_embed", _towards(at, share, begin))],
                )
                read = [torch.cat(side, dim=-1)[:, begin:] for side in zip(*found, strict=True)]
                return read[0], read[1]

            before, gradient_before = at_share(0.0)
            through = torch.zeros_like(before)
            for step in range(1, self.steps + 1):
                after, gradient_after = at_share(step / self.steps)
                through += (gradient_before + gradient_after) / 2 * (after - before)
                before, gradient_before = after, gradient_after
            through = through.double()
            return through.pow(2).sum((0, 1)) if self.squared else through.sum((0, 1))

        sums = list(over_batches(reader, ids, of_batch, "conductance"))
        values = torch.stack(sums).sum(0)
        values = values.sqrt() if self.squared else values / len(ids)
        return collected.scored(self, values, "nats")


def _embedding(collected: Collected, baseline: str) -> Tensor:
    """The embedding at which the path begins."""
    model: Any = collected.model
    prompts = collected.negative_prompts().ids
    tokens = torch.tensor([token for ids in prompts for token in ids])
    with torch.no_grad():
        mean = model.W_E[tokens].mean(0)
    return torch.zeros_like(mean) if baseline == "zero" else mean


def _towards(at: Tensor, share: float, begin: int) -> Callable[..., Tensor]:
    def moved(embeddings: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        found = embeddings.clone()
        found[:, begin:] = at + share * (embeddings[:, begin:] - at)
        return found

    return moved
