"""Perplexity: how surprising a text is to a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.prompts.sets import PromptSet
from cna_lens.models.running.memory import predictions_at_once
from cna_lens.models.running.predictions import (
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

    Answers of a steered model are judged by the unsteered one: call it outside of `steer`. A low
    value is no proof of quality: a loop is easy to predict, see `compression_ratio`.

    >>> perplexity(tiny_model, ["Hello."], [""])
    [None]

    Args:
        model: the model that judges.
        prompts: strings, lists of chat messages, or token ids.
        answers: one for each prompt.
        chat: put strings into the chat template; "auto" where the tokenizer has one.

    Returns:
        At least 1 for each answer, None for one without tokens.

    Raises:
        InputError: not one answer for each prompt, or together longer than the context.
    """
    return _perplexities(model, answers_after_prompts(model, prompts, answers, chat=chat))


def text_perplexity(model: HookedModel, texts: Sequence[str]) -> list[float | None]:
    """The perplexity of plain texts, from the second token on.

    A token that begins every sequence, where the model has one, stands before them. None for a
    text of which nothing is predicted.

    >>> text_perplexity(tiny_model, ["w5 w6"])[0] > 1
    True

    Raises:
        InputError: no texts, or one longer than the context.
    """
    return _perplexities(
        model, [Text(ids, 1, len(ids)) for ids in encode(model, texts, chat=False).ids]
    )


def _perplexities(model: HookedModel, texts: Sequence[Text]) -> list[float | None]:
    return [
        float((-log_probs.double().mean()).exp()) if len(log_probs) else None
        for log_probs in predicted_log_probs(model, texts)
    ]


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

    Over the tokens of the answers, teacher-forced: give the unsteered model's own answers to
    benign prompts. Without answers, over the prompts' tokens from where the chat template hands
    over to the user. It is exactly 0 where nothing is changed.

    >>> from contextlib import nullcontext
    >>> kl_per_token(tiny_model, nullcontext, ["w5 w6 w7"])
    [0.0]

    Args:
        model: a TransformerBridge or HookedTransformer.
        steering: makes the context in which the model is steered, such as
            `lambda: steer(model, circuit, 0.0)`; it is entered several times.
        prompts: strings, lists of chat messages, or token ids.
        answers: one for each prompt, None for the prompts alone.
        chat: put strings into the chat template; "auto" where the tokenizer has one.

    Returns:
        One value for each prompt, None where it has no token to count.

    Raises:
        InputError: not one answer for each prompt, or together longer than the context.
    """
    if answers is None:
        texts = prompts_alone(model, prompts, chat=chat)
    else:
        texts = answers_after_prompts(model, prompts, answers, chat=chat)
    found: list[float | None] = []
    for together in _chunks(texts, predictions_at_once(model)):
        unsteered = dict(predictions(model, together))
        divergences: dict[int, float | None] = {}
        with steering():
            for place, steered in predictions(model, together):
                p = unsteered.pop(place)
                kl = (p.exp() * (p - steered)).sum(-1)
                divergences[place] = float(kl.double().mean()) if len(kl) else None
        found.extend(divergences[place] for place in range(len(together)))
    return found


def _chunks(texts: Sequence[Text], at_once: int) -> Iterator[list[Text]]:
    """Consecutive texts whose distributions fit the memory together."""
    chunk: list[Text] = []
    for text in texts:
        if chunk and sum(other.n_predicted for other in chunk) + text.n_predicted > at_once:
            yield chunk
            chunk = []
        chunk.append(text)
    yield chunk


def factual_accuracy(model: HookedModel, task: PromptSet) -> list[bool]:
    """Whether the right word is likelier than the wrong one, prompt by prompt.

    After a positive prompt the target is right and the foil wrong, after a negative one the other
    way round. A word of several tokens counts by the sum of its tokens' log-probabilities.

    >>> from cna_lens import prompt_set
    >>> len(factual_accuracy(tiny_model, prompt_set("agreement")))
    80

    Args:
        model: a TransformerBridge or HookedTransformer; inside `steer`, the steered model.
        task: a prompt set with targets and foils, such as `prompt_set("capitals")`.

    Returns:
        First the positive prompts, then the negative ones.

    Raises:
        InputError: the prompt set has no targets.
    """
    if not task.targets:
        raise InputError(
            f"the prompt set {task.name!r} has no targets; take 'capitals' or 'agreement'"
        )
    prompts = [*task.positive, *task.negative]
    right = _log_prob(model, prompts, [*task.targets, *task.foils])
    wrong = _log_prob(model, prompts, [*task.foils, *task.targets])
    return [a > b for a, b in zip(right, wrong, strict=True)]


def _log_prob(model: HookedModel, prompts: list[str], words: list[str]) -> list[float]:
    texts = answers_after_prompts(model, prompts, words, chat=False)
    return [float(log_probs.sum()) for log_probs in predicted_log_probs(model, texts)]
