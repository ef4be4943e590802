"""Rank by squared attributions: how much a neuron matters at any token, in either direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.rankings.gradients import GradientBatch, over_batches
from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking, check_whole
from cna_lens.metrics.certainty import WatchedMetric
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, check_metric
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.running.batching import shared_prefix_length
from cna_lens.models.running.decoding import seeds_of
from cna_lens.models.running.predictions import Text, check_answer_tokens, own_answers
from cna_lens.results.scores import NeuronScores

Logits = Float[Tensor, "batch kept_pos d_vocab"]
Total = Callable[[GradientBatch, Logits, int], Tensor]
"""A number from a batch's logits, and the position of the first of them."""


@dataclass(frozen=True)
class SquaredAttribution(Ranking):
    r"""Root mean square over tokens of a neuron's attribution, for a metric and for the answers.

    $$s_i = \frac{\alpha_i}{\bar\alpha} + \frac{\varphi_i}{\bar\varphi}, \qquad
    \alpha_i^2 = \sum_{p \in P} \sum_t \left(a_{i,t} \frac{\partial m(p)}{\partial a_{i,t}}
    \right)^2, \qquad
    \varphi_i^2 = \sum_{p \in P} \sum_t \left(a_{i,t} \frac{\partial \log p(y)}{\partial a_{i,t}}
    \right)^2$$

    where m is the metric after the prompt, and y are tokens drawn from the model's predictions, one
    at each token of its own greedy answer. A bar is the mean over neurons. The second sum is the
    Fisher information of a factor on the activation, so that half of it is, to second order, the
    KL divergence along the answer if the neuron is ablated at this token.

    Plain attributions cancel: a neuron raises the metric at one token or prompt and lowers it at
    another. Squares do not. The score has no sign: it says that a neuron matters where the
    behaviour occurs, and neither in which direction nor that it matters there alone.

    Tokens that all positive prompts begin with, such as those of a chat template, do not count; if
    there is only one prompt, all of its tokens do. The negative prompts and the token that is read
    do not matter.

    >>> squared = SquaredAttribution(LogitDifference(target=5, foil=6), answer_tokens=0)
    >>> scores = score_neurons(tiny_model, [[5, 6], [8]], [[7], [9]], squared)
    >>> float(scores.values.mean())  # each part has the mean 1
    2.0

    Source: squared attributions are those of Fisher pruning, arXiv 1801.05787, and arXiv
    1906.10771; their sum over tokens, and with a metric, is ours. Cost: one forward pass for each
    prompt, answers to the positive prompts, and two forward and backward passes for each positive
    prompt, one of them with its answer.

    Attributes:
        metric: `LogOdds` of the behaviour's first tokens, refusal by default, or
            `LogitDifference`.
        answer_tokens: tokens of each positive prompt's answer along which tokens are drawn, beside
            the one after the prompt.
        seed: of the tokens that are drawn.
    """

    metric: FirstTokenMetric = field(default_factory=LogOdds)
    answer_tokens: int = 8
    seed: int = 0
    name: ClassVar[str] = "squared_attribution"
    needs: ClassVar[Needs] = "gradients"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_metric(self.metric)
        check_whole("answer_tokens", self.answer_tokens)
        check_whole("seed", self.seed)

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise an error for a model that the ranking cannot use.

        Raises:
            InputError: the metric does not fit, or answers are needed and there is no tokenizer.
            ModelError: neurons are experts'.
        """
        mlp_hook_names(model)
        self.metric.of(model, n_positive)
        check_answer_tokens(model, self.answer_tokens)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron.

        Raises:
            InputError: a prompt and its answer exceed the context.
            ActivationError: a gradient is infinite or not a number.
        """
        reader, prompts = collected.model_and_prompts()
        model, n_prompts = reader.model, len(prompts.ids)
        metric = WatchedMetric(self.metric.of(model, n_prompts))
        counted_from = shared_prefix_length(prompts.ids)
        if len(set(prompts.ids)) == 1:
            # Nothing tells the template from the prompt, so that all tokens count.
            counted_from, reader = 0, replace(reader, share_prefix=False)
        alone = [Text(ids, len(ids), len(ids)) for ids in prompts.ids]
        answered = own_answers(model, prompts.ids, self.answer_tokens)
        seeds = seeds_of(prompts.ids, self.seed)

        def of_metric(batch: GradientBatch, logits: Logits, first: int) -> Tensor:
            rows = torch.arange(len(logits), device=logits.device)
            return metric(logits[rows, batch.last.to(logits.device) - first], batch.prompts).sum()

        def of_draws(batch: GradientBatch, logits: Logits, first: int) -> Tensor:
            drawn: list[Tensor] = []
            for row, place in enumerate(batch.prompts):
                begin, end = (
                    n - 1 - batch.prefix.length - first
                    for n in (batch.n_prompt[row], len(answered[place].ids))
                )
                log_probs = logits[row, begin : end + 1].float().log_softmax(-1)
                generator = torch.Generator().manual_seed(seeds[place])
                tokens = log_probs.detach().exp().cpu().multinomial(1, generator=generator)
                drawn.append(log_probs.gather(-1, tokens.to(log_probs.device)).sum())
            return torch.stack(drawn).sum()

        parts = [
            _relative(_root_of_squares(reader, texts, total, counted_from, desc))
            for texts, total, desc in (
                (alone, of_metric, "attributing the metric"),
                (answered, of_draws, "attributing the answers"),
            )
        ]
        metric.warn(model, collected.negatives and collected.negatives.ids)
        return collected.scored(self, parts[0] + parts[1], "times the mean")


def _root_of_squares(
    reader: Reader, texts: Sequence[Text], total: Total, counted_from: int, desc: str
) -> Float64[Tensor, " neuron"]:
    """The root of each neuron's squared attributions, summed over tokens."""
    n_prompt = [text.prompt_length for text in texts]

    def squares(batch: GradientBatch) -> Float64[Tensor, " neuron"]:
        length = batch.prefix.length
        first = min(batch.n_prompt) - 1 - length
        # Padding is no token, and nothing after it is read, so that its gradient is 0.
        start = max(0, counted_from - length)
        found = batch.at_all_tokens(lambda logits: total(batch, logits, first), first)
        return torch.cat(
            [
                # A product of half precision would vanish, and MPS has no float64.
                (each.activations.cpu().double() * each.gradients.cpu().double())[:, start:]
                .pow(2)
                .sum((0, 1))
                for each in found
            ]
        )

    ids = [text.ids for text in texts]
    sums = list(over_batches(reader, ids, squares, desc, n_prompt))
    return torch.stack(sums).sum(0).sqrt()


def _relative(values: Float64[Tensor, " neuron"]) -> Float64[Tensor, " neuron"]:
    """Values in units of their mean; zeros stay zeros."""
    return values / values.mean() if bool(values.any()) else values
