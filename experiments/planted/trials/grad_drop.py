"""Gradient drop of AtP*: attributions with the gradient of one layer's output at 0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from cna_lens import LogOdds
from cna_lens.discovery import Collected, GradientBatch, Needs, Ranking, over_batches
from cna_lens.models import HookedModel
from cna_lens.results import NeuronScores
from experiments.planted.trials.backward import dropped
from experiments.planted.trials.of_metric import own_tokens, total_of


@dataclass(frozen=True)
class GradDrop(Ranking):
    r"""Mean over layers of a neuron's absolute attribution without that layer's gradient.

    $$s_i = \frac{1}{|P|} \sum_{p \in P} \frac{1}{L - 1} \sum_{l=1}^{L} \left|
    \left(a_i(p) - \bar a_i\right) \frac{\partial m^{(l)}}{\partial a_i}\right|$$

    where the gradient $\partial m^{(l)}$ is 0 through what attention and MLP of layer l write into
    the residual stream, so that a direct effect and an indirect one of the other sign do not cancel
    in all terms. Each neuron's own layer gives 0, hence L - 1. $\bar a$ is the mean over the
    negative prompts, at the token that is read. With tokens "all", $\bar a$ is 0 and

    $$s_i^2 = \sum_{p, t} \left(\frac{1}{L - 1} \sum_l \left| a_{i,t}
    \frac{\partial m^{(l)}}{\partial a_{i,t}} \right|\right)^2$$

    The other change of AtP*, which computes the softmax anew for queries and keys, is for patching
    these nodes. A neuron is neither, so that AtP* for neurons is gradient drop alone.

    Source: Kramár et al., arXiv 2403.00745, abstract; the formula is that of a public
    implementation by others, github.com/koayon/atp_star. Cost: L forward and backward passes for
    each positive prompt that is read, and one forward pass for each prompt.

    Attributes:
        metric: log-odds of the behaviour's first tokens.
        tokens: the token that is "read", or "all".
        n_prompts: so many positive prompts are read, the first ones.
    """

    metric: LogOdds = field(default_factory=LogOdds)
    tokens: Literal["read", "all"] = "read"
    n_prompts: int = 10
    name: ClassVar[str] = "grad_drop"
    needs: ClassVar[Needs] = "gradients"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise InputError where the metric does not fit."""
        self.metric.of(model, n_positive)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        reader, prompts = collected.model_and_prompts()
        ids, n_layers = prompts.ids[: self.n_prompts], int(reader.model.cfg.n_layers)
        values = self.metric.of(reader.model, len(ids))
        total, start = total_of(self.metric, reader.model, ids), own_tokens(ids)

        def at_read(batch: GradientBatch) -> Tensor:
            found = [batch.run(values, dropped(layer)) for layer in range(n_layers)]
            difference = found[0].activations - collected.negative.mean
            return sum((each.gradients * difference).abs() for each in found).sum(0)

        def at_all(batch: GradientBatch) -> Tensor:
            first, begin = int(batch.last.min()), start(batch)
            absolute: Tensor | float = 0.0
            for layer in range(n_layers):
                found = batch.at_all_tokens(
                    lambda logits: total(batch, logits, first), first, dropped(layer)
                )
                absolute = absolute + torch.cat(
                    [(each.activations * each.gradients).abs()[:, begin:] for each in found], dim=-1
                )
            return torch.as_tensor(absolute).double().pow(2).sum((0, 1))

        of_batch = at_read if self.tokens == "read" else at_all
        summed = torch.stack(list(over_batches(reader, ids, of_batch, "dropping gradients"))).sum(0)
        summed = summed / len(ids) if self.tokens == "read" else summed.sqrt()
        return collected.scored(self, summed / (n_layers - 1), "nats")
