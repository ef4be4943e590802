"""Powers of a metric's attributions, summed over tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from cna_lens import LogOdds
from cna_lens.discovery import Collected, GradientBatch, Needs, Ranking, over_batches
from cna_lens.models import HookedModel, TokenIds, shared_prefix_length
from cna_lens.results import NeuronScores

Logits = Tensor


@dataclass(frozen=True)
class OfMetric(Ranking):
    r"""Root of the summed powers of a neuron's attributions of the metric.

    $$s_i = \left(\sum_{p \in P} \sum_t \left|a_{i,t} \frac{\partial m(p)}{\partial a_{i,t}}
    \right|^q\right)^{1/q}$$

    over the tokens after those that all positive prompts begin with. With q = 2 it is the first
    part of `SquaredAttribution`. Cost: one forward and one backward pass for each positive prompt.

    Attributes:
        metric: log-odds of the behaviour's first tokens.
        power: q.
    """

    metric: LogOdds = field(default_factory=LogOdds)
    power: float = 2.0
    name: ClassVar[str] = "of_metric"
    needs: ClassVar[Needs] = "gradients"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise InputError where the metric does not fit."""
        self.metric.of(model, n_positive)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        reader, prompts = collected.model_and_prompts()
        total, start = total_of(self.metric, reader.model, prompts.ids), own_tokens(prompts.ids)

        def powers(batch: GradientBatch) -> Tensor:
            first = int(batch.last.min())
            found = batch.at_all_tokens(lambda logits: total(batch, logits, first), first)
            products = torch.cat(
                [each.activations.double() * each.gradients.double() for each in found], dim=-1
            )
            return products[:, start(batch) :].abs().pow(self.power).sum((0, 1))

        sums = over_batches(reader, prompts.ids, powers, "attributing the metric")
        return collected.scored(self, torch.stack(list(sums)).sum(0).pow(1 / self.power), "nats")


def total_of(
    metric: LogOdds, model: HookedModel, prompts: Sequence[TokenIds]
) -> Callable[[GradientBatch, Logits, int], Tensor]:
    """The metric after each prompt of a batch, summed; from logits that begin at a position."""
    values = metric.of(model, len(prompts))

    def total(batch: GradientBatch, logits: Logits, first: int) -> Tensor:
        return values(logits[torch.arange(len(logits)), batch.last - first], batch.prompts).sum()

    return total


def own_tokens(prompts: Sequence[TokenIds]) -> Callable[[GradientBatch], int]:
    """Where in a batch the tokens begin that not all prompts share, such as a chat template's."""
    shared = shared_prefix_length(prompts) if len(set(prompts)) > 1 else 0
    return lambda batch: max(0, shared - batch.prefix.length)
