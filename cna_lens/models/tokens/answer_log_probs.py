"""The log-probability of each token of an answer, without and with steering."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.predictions import LogProbs, Text, answers_after_prompts, for_each_text
from cna_lens.models.tokens.token_texts import check_k, lone_token_texts, token_texts
from cna_lens.results.statistics import change_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TokenPrediction:
    """The model's prediction at the place of one token.

    Attributes:
        log_prob: of the token, in nats.
        rank: how many tokens were more likely.
        likeliest: the most likely tokens with their log-probabilities, most likely first.
    """

    log_prob: float
    rank: int
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class AnswerLogProbs:
    """An answer's tokens, and the model's prediction of each without and with steering.

    Attributes:
        tokens: the answer's tokens, as text; a token that continues a character is "".
        unsteered: the prediction of each token without steering.
        steered: the prediction of each token with steering.
    """

    tokens: tuple[str, ...]
    unsteered: tuple[TokenPrediction, ...]
    steered: tuple[TokenPrediction, ...]

    @property
    def change(self) -> tuple[float, ...]:
        """Change of each token's log-probability through steering, in nats."""
        pairs = zip(self.unsteered, self.steered, strict=True)
        return tuple(
            change_of(unsteered.log_prob, steered.log_prob) for unsteered, steered in pairs
        )

    def to_frame(self) -> pd.DataFrame:
        """A data frame with a row for each token: log-probabilities and ranks, and the change."""
        import pandas as pd

        sides = {"unsteered": self.unsteered, "steered": self.steered}
        columns = {
            f"{name}_{side}": [getattr(at, name) for at in predicted]
            for side, predicted in sides.items()
            for name in ("log_prob", "rank")
        }
        return pd.DataFrame({"token": self.tokens, **columns, "change": self.change})


def answer_log_probs(
    model: HookedModel,
    steering: Callable[[], AbstractContextManager[Any]],
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    *,
    k: int = 10,
    chat: Chat = "auto",
) -> list[AnswerLogProbs]:
    r"""Compute the log-probability of each token of given answers, $\log p(y_t \mid x, y_{<t})$.

    Teacher-forced: both models read the same answer. Cost: two forward passes over each prompt
    and its answer.

    >>> from contextlib import nullcontext
    >>> (found,) = answer_log_probs(tiny_model, nullcontext, ["w5"], ["w6 w7"], k=1)
    >>> found.tokens, found.change
    (('w6', 'w7'), (0.0, 0.0))

    Args:
        model: a TransformerBridge or HookedTransformer.
        steering: gives the context in which the model is steered, such as
            `lambda: steer(model, circuit, 0.0)`.
        prompts: strings, lists of chat messages, or token ids.
        answers: one for each prompt.
        k: how many of the most likely tokens to keep at each place.
        chat: put strings into the chat template; "auto" where the tokenizer has one.

    Raises:
        InputError: there is not one answer for each prompt, an answer has no tokens, a prompt and
            its answer exceed the context, or k is out of range.
    """
    check_k(model, k)
    texts = answers_after_prompts(model, prompts, answers, chat=chat)
    for place, text in enumerate(texts):
        if not text.n_predicted:
            raise InputError(f"answer {place} is {answers[place]!r}, which has no tokens")

    def expected(text: Text, log_probs: LogProbs) -> tuple[TokenPrediction, ...]:
        pairs = zip(log_probs.cpu(), text.predicted, strict=True)
        return tuple(prediction_of(model, row, token, k) for row, token in pairs)

    unsteered = for_each_text(model, texts, expected)
    with steering():
        steered = for_each_text(model, texts, expected)
    return [
        AnswerLogProbs(token_texts(model, text.predicted), before, after)
        for text, before, after in zip(texts, unsteered, steered, strict=True)
    ]


def prediction_of(
    model: HookedModel, log_probs: Float[Tensor, " d_vocab"], token: int, k: int
) -> TokenPrediction:
    """What a row of log-probabilities says about a token, and the k likeliest tokens."""
    top = torch.topk(log_probs, k)
    return TokenPrediction(
        log_prob=float(log_probs[token]),
        rank=int((log_probs > log_probs[token]).sum()),
        likeliest=tuple(
            zip(lone_token_texts(model, top.indices.tolist()), top.values.tolist(), strict=True)
        ),
    )
