"""KL divergence: how much steering changes what the model expects on prompts that it should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.memory import predictions_at_once
from cna_lens.models.running.predictions import (
    Text,
    answers_after_prompts,
    predictions,
    prompts_alone,
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
