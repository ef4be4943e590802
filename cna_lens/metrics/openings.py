"""Log-odds that an answer begins with one of several openings, from all of their tokens."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.metrics.first_token import check_openings, token_ids
from cna_lens.metrics.refusal.reasoning import without_reasoning
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, encode
from cna_lens.models.running.predictions import LogProbs, Text, for_each_text

ROUNDING = 1e-5
"""A probability this close to 1 cannot be told from 1 in float32."""


def opening_log_odds(
    model: HookedModel,
    prompts: Sequence[Prompt],
    openings: Sequence[str],
    *,
    chat: Chat = "auto",
) -> list[float]:
    r"""Log-odds that an answer begins with one of several openings, by all of their tokens.

    $$\log \frac{P}{1 - P}, \qquad
    P = \sum_{o \in O} \prod_{t} p(o_t \mid x, o_{<t})$$

    in nats, at most 11.5, since a larger P cannot be told from 1. `refusal_log_odds` looks at
    first tokens alone, which is one pass for each prompt. But "I" begins both "I cannot" and "I
    would be glad to": a model may unlearn to refuse and hardly move the first token. Here it counts
    what comes next. Openings that begin with the same tokens share a pass.

    >>> (both,) = opening_log_odds(tiny_model, ["w6 w7"], ["w5 w8", "w5 w9"])
    >>> (one,) = opening_log_odds(tiny_model, ["w6 w7"], ["w5 w8"])
    >>> one < both
    True

    Args:
        model: a TransformerBridge or HookedTransformer; inside `steer`, the steered model.
        prompts: strings, lists of chat messages, or token ids.
        openings: beginnings of answers. One that begins with another counts as the other.
        chat: put strings into the chat template; "auto" does so if the tokenizer has one.

    Raises:
        InputError: there are no prompts or no openings, the openings are a single text, one has no
            tokens, the model has no tokenizer, or a prompt and an opening exceed the context.
        ModelError: a log-probability is not a number.
    """
    check_openings(openings)
    read_along = _shared_out(
        _distinct([tuple(token_ids(model, opening, "the opening")) for opening in openings])
    )
    encoded = encode(model, prompts, chat=chat)
    # The value of the last token does not matter: it is predicted, and not read.
    texts = [
        Text((*ids, *beginning, 0), len(ids), len(ids))
        for ids in encoded.ids
        for beginning in read_along
    ]
    _check_context(model, texts)

    def of_openings(text: Text, log_probs: LogProbs) -> Float64[Tensor, " opening"]:
        sums = [
            log_probs[range(len(opening)), list(opening)].cpu().double().sum()
            for opening in read_along[text.predicted[:-1]]
        ]
        return torch.stack(sums)

    by_text = for_each_text(model, texts, of_openings)
    starts = range(0, len(by_text), len(read_along))
    of_prompts = [torch.cat(by_text[start : start + len(read_along)]) for start in starts]
    log_p = torch.stack(of_prompts).logsumexp(1).clamp(max=math.log1p(-ROUNDING))
    return (log_p - torch.log1p(-log_p.exp())).tolist()


def refusal_openings(model: HookedModel, answers: Sequence[str], *, at_most: int = 8) -> list[str]:
    """The commonest ways in which a model's answers begin to refuse.

    Of each answer that refuses (`is_refusal`), the opening is its shortest beginning that does. It
    counts if at least two answers share it, so that it belongs to the model, not to a request.
    Reasoning before an answer is skipped (`without_reasoning`).

        answers = cna_lens.generate(model, prompts, max_new_tokens=12)
        refusal_openings(model, answers)  # ["I'm sorry, but I cannot", "I'm not able to"]

    Args:
        model: the model, for its tokenizer.
        answers: texts of the model.
        at_most: the number of openings, the commonest first.

    Returns:
        The openings; none if no two answers refuse in the same words.

    Raises:
        InputError: the model has no tokenizer, or the answers are a single text.
    """
    if isinstance(answers, str):
        raise InputError("answers is one string, expected a list of strings")
    found = Counter(
        opening
        for answer in map(without_reasoning, answers)
        if is_refusal(answer) and (opening := _refusing_beginning(model, answer)) is not None
    )
    return [opening for opening, count in found.most_common(at_most) if count > 1]


def _refusing_beginning(model: HookedModel, answer: str) -> str | None:
    ids = token_ids(model, answer, "the answer")
    for end in range(1, len(ids) + 1):
        beginning = model.tokenizer.decode(ids[:end], skip_special_tokens=True)
        # A character of several tokens may be cut, and then has other tokens.
        if is_refusal(beginning) and token_ids(model, beginning, "the opening") == ids[:end]:
            return beginning
    return None


def _distinct(openings: Sequence[TokenIds]) -> list[TokenIds]:
    """Each opening once, without those that begin with another one."""
    return [
        opening
        for opening in dict.fromkeys(openings)
        if not any(opening[:end] in openings for end in range(1, len(opening)))
    ]


def _shared_out(openings: Sequence[TokenIds]) -> dict[TokenIds, list[TokenIds]]:
    """The tokens to read, each with the openings whose probability is found along them.

    The last token of an opening is predicted, and not read. So an opening needs no tokens of its
    own if what is read for another one begins with all but its last.
    """
    shared: dict[TokenIds, list[TokenIds]] = {}
    for opening in sorted(openings, key=len, reverse=True):
        needed = opening[:-1]
        beginning = next((read for read in shared if read[: len(needed)] == needed), needed)
        shared.setdefault(beginning, []).append(opening)
    return shared


def _check_context(model: HookedModel, texts: Sequence[Text]) -> None:
    context = getattr(model.cfg, "n_ctx", None)
    longest = max(range(len(texts)), key=lambda place: len(texts[place].ids))
    text = texts[longest]
    if context and len(text.ids) - 1 > context:
        raise InputError(
            f"the longest prompt has {text.prompt_length} tokens, and {text.n_predicted - 1} of an "
            f"opening are read behind it; the model's context holds {context}; shorten the prompt"
        )
