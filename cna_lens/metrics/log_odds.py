"""Refusal log-odds of the first token: how close to a refusal a model is, without generating."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.first_token import REFUSAL_OPENINGS, first_tokens, log_odds
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.running.predictions import Text, predictions


def refusal_log_odds(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    openings: Sequence[str] = REFUSAL_OPENINGS,
    chat: Chat = "auto",
) -> list[float]:
    r"""The log-odds that an answer's first token is one that begins a refusal.

    $$\log \frac{\sum_{t \in R} p(t \mid x)}{\sum_{t \notin R} p(t \mid x)}$$

    in nats, where R holds the first tokens of the openings. One forward pass a prompt and no
    generation, so that sweeps are fast; what is said after the first token does not count. "I" may
    begin a refusal and an answer alike: look at the correlation with the rate of refusals on your
    model before relying on it.

    >>> (log_odds,) = refusal_log_odds(tiny_model, ["w6 w7"], openings=["w5"])
    >>> log_odds < 0  # 1 of 64 tokens
    True

    Args:
        model: a TransformerBridge or HookedTransformer; inside `steer`, the steered model.
        prompts: strings, lists of chat messages, or token ids.
        openings: how refusals begin.
        chat: put strings into the chat template; "auto" where the tokenizer has one.

    Raises:
        InputError: no prompts, or no openings.
    """
    refusing = first_tokens(model, openings)
    # What stands in the place that is predicted does not matter, and is not read.
    texts = [Text((*ids, 0), len(ids), len(ids)) for ids in encode(model, prompts, chat=chat).ids]
    found: dict[int, float] = {}
    for place, log_probs in predictions(model, texts):
        found[place] = float(log_odds(log_probs[0].cpu().double(), refusing))
    return [found[place] for place in range(len(texts))]
