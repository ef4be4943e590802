"""Perplexity: how surprising a text is to a model."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.running.predictions import Text, answers_after_prompts, predicted_log_probs


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
