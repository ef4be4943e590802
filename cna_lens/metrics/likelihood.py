"""Metrics of given texts, from the probabilities that a model assigns to their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.prompts.sets import PromptSet
from cna_lens.models.running.memory import predictions_at_once
from cna_lens.models.running.predictions import (
    LogProbs,
    Text,
    answers_after_prompts,
    predicted_log_probs,
    predictions,
    prompts_alone,
)


def perplexity(
    model: HookedModel,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    *,
    chat: Chat = "auto",
) -> list[float | None]:
    r"""The perplexity of each answer, given its prompt.

    $$\exp\left(-\frac{1}{n} \sum_{t=1}^{n} \log p(y_t \mid x, y_{<t})\right)$$

    To judge the answers of a steered model by the unsteered one, call this outside of `steer`. A
    low value does not prove quality, since loops are easy to predict; see `compression_ratio`.

    >>> perplexity(tiny_model, ["Hello."], [""])
    [None]

    Args:
        model: the model that assigns the probabilities.
        prompts: strings, lists of chat messages, or token ids.
        answers: one for each prompt.
        chat: put strings into the chat template; "auto" does so if the tokenizer has one.

    Returns:
        A value of at least 1 for each answer, None for an answer without tokens.

    Raises:
        InputError: the numbers of prompts and answers differ, the answers are a single text, or a
            prompt and its answer are together longer than the context.
    """
    _check_answers(answers)
    return _perplexities(model, answers_after_prompts(model, prompts, answers, chat=chat))


def text_perplexity(model: HookedModel, texts: Sequence[str]) -> list[float | None]:
    """The perplexity of plain texts, from the second token on.

    If the model has a BOS token, it precedes each text. The value is None for a text without
    predicted tokens.

    >>> text_perplexity(tiny_model, ["w5 w6"])[0] > 1
    True

    Raises:
        InputError: there are no texts, or one is longer than the context.
    """
    return _perplexities(
        model, [Text(ids, 1, len(ids)) for ids in encode(model, texts, chat=False).ids]
    )


def kl_per_token(
    model: HookedModel,
    steering: Callable[[], AbstractContextManager[Any]],
    prompts: Sequence[Prompt],
    answers: Sequence[str] | None = None,
    *,
    chat: Chat = "auto",
) -> list[float | None]:
    r"""KL divergence of the steered from the unsteered model, per token, in nats.

    $$\frac{1}{n} \sum_{t=1}^{n} \mathrm{KL}\left(p(\cdot \mid x_{<t}) \,\|\,
    p_\text{steered}(\cdot \mid x_{<t})\right)$$

    With answers, the mean runs over their tokens, teacher-forced; usually these are the unsteered
    model's own answers to benign prompts. Without answers, it runs over the prompts' tokens after
    the beginning of the chat template. The divergence is exactly 0 if nothing is changed. It is
    infinite if the steered model forbids a token (logit -inf) that the unsteered one allows.

    >>> from contextlib import nullcontext
    >>> kl_per_token(tiny_model, nullcontext, ["w5 w6 w7"])
    [0.0]

    Args:
        model: a TransformerBridge or HookedTransformer.
        steering: returns a context in which the model is steered, such as
            `lambda: steer(model, circuit, 0.0)`; it may be called several times.
        prompts: strings, lists of chat messages, or token ids.
        answers: one for each prompt, or None to use the prompts alone.
        chat: put strings into the chat template; "auto" does so if the tokenizer has one.

    Returns:
        One value for each prompt, None if none of its tokens counts.

    Raises:
        InputError: the numbers of prompts and answers differ, the answers are a single text, or a
            prompt and its answer are together longer than the context.
    """
    if answers is None:
        texts = prompts_alone(model, prompts, chat=chat)
    else:
        _check_answers(answers)
        texts = answers_after_prompts(model, prompts, answers, chat=chat)
    found: list[float | None] = []
    for chunk in _chunks(texts, predictions_at_once(model)):
        unsteered = dict(predictions(model, chunk))
        with steering():
            divergences = {
                place: mean_kl(unsteered.pop(place), steered)
                for place, steered in predictions(model, chunk)
            }
        found.extend(divergences[place] for place in range(len(chunk)))
    return found


def factual_accuracy(model: HookedModel, task: PromptSet) -> list[bool]:
    """Whether the correct word is likelier than the wrong one, for each prompt.

    The target is correct after a positive prompt, the foil after a negative one. A word's
    log-probability is the sum over its tokens.

    >>> from cna_lens import prompt_set
    >>> len(factual_accuracy(tiny_model, prompt_set("agreement")))
    80

    Args:
        model: a TransformerBridge or HookedTransformer; inside `steer`, the steered model.
        task: a prompt set with targets and foils, such as `prompt_set("capitals")`.

    Returns:
        A value for each positive prompt, then for each negative prompt.

    Raises:
        InputError: the prompt set has no targets.
    """
    if not task.targets:
        raise InputError(
            f"the prompt set {task.name!r} has no targets; take 'capitals' or 'agreement'"
        )
    prompts = [*task.positive, *task.negative]
    correct, wrong = (
        predicted_log_probs(model, answers_after_prompts(model, prompts, words, chat=False))
        for words in ([*task.targets, *task.foils], [*task.foils, *task.targets])
    )
    return [bool(a.sum() > b.sum()) for a, b in zip(correct, wrong, strict=True)]


def _check_answers(answers: Sequence[str]) -> None:
    if isinstance(answers, str):
        raise InputError("answers is one string, expected a list with one for each prompt")


def _perplexities(model: HookedModel, texts: Sequence[Text]) -> list[float | None]:
    return [
        float((-log_probs.double().mean()).exp()) if len(log_probs) else None
        for log_probs in predicted_log_probs(model, texts)
    ]


def mean_kl(log_p: LogProbs, log_q: LogProbs) -> float | None:
    """Mean over tokens of the divergence of q from p, in nats; None without tokens."""
    divergence = kl_divergence(log_p, log_q)
    return float(divergence.double().mean()) if len(divergence) else None


def kl_divergence(
    log_p: Float[Tensor, "predicted d_vocab"], log_q: Float[Tensor, "predicted d_vocab"]
) -> Float[Tensor, " predicted"]:
    """The divergence of q from p at each token, in nats, from log-probabilities.

    A token that p forbids adds nothing, even if q forbids it too. It is infinite where q forbids a
    token that p allows.

    >>> p = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]).log()
    >>> kl_divergence(p, torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]).log())
    tensor([0.1438,    inf])
    """
    forbidden = log_p == -torch.inf
    terms = log_p.exp() * (log_p - log_q)
    terms = terms.masked_fill(forbidden, 0.0)
    # Not by the product, which is not a number where the probability is rounded to 0.
    return terms.masked_fill((log_q == -torch.inf) & ~forbidden, torch.inf).sum(-1)


def _chunks(texts: Sequence[Text], at_once: int) -> Iterator[list[Text]]:
    """Group consecutive texts whose distributions fit into memory together."""
    chunk: list[Text] = []
    for text in texts:
        if chunk and sum(other.n_predicted for other in chunk) + text.n_predicted > at_once:
            yield chunk
            chunk = []
        chunk.append(text)
    yield chunk
