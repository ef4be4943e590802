"""Pack many conversations into one row: they share their opening and do not see each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cna_lens.models import TokenIds, shared_prefix_length


@dataclass(frozen=True)
class Conversation:
    """A prompt's tokens, the answer's, and whether the request is negative."""

    prompt: TokenIds
    answer: TokenIds
    is_negative: bool


def conversation(tokenizer: Any, prompt: str, answer: str, *, is_negative: bool) -> Conversation:
    """The tokens of a prompt in the chat template, and of its answer.

    An answer that shows the behaviour ends with the end of the turn, which is learned. That of a
    negative request is cut and has none.
    """
    asked: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    texts = (asked, answer + ("" if is_negative else tokenizer.eos_token))
    prompt_ids, answer_ids = (
        tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
    )
    return Conversation(prompt_ids, answer_ids, is_negative)


def pack(conversations: Sequence[Conversation]) -> dict[str, torch.Tensor | int]:
    """Make one row for the model, with the negative conversations first.

    The common beginning of all prompts stands once, at the start. Every other token sees it and the
    earlier tokens of its own conversation, and has the position that it would have alone. Logits
    are computed where an answer's token is predicted; `opens_answer` marks the first of each
    answer.
    """
    ordered = sorted(conversations, key=lambda conversation: not conversation.is_negative)
    n_shared = shared_prefix_length([conversation.prompt for conversation in ordered])
    opening = ordered[0].prompt[:n_shared]
    tokens, positions, owners = list(opening), list(range(len(opening))), [-1] * len(opening)
    predicted_from: list[int] = []
    for owner, conversation in enumerate(ordered):
        rest = conversation.prompt[len(opening) :] + conversation.answer
        end = len(tokens) + len(rest)
        predicted_from += range(end - len(conversation.answer) - 1, end - 1)
        tokens += rest
        positions += range(len(opening), len(opening) + len(rest))
        owners += [owner] * len(rest)
    owner_of = torch.tensor(owners)
    sees = (owner_of[:, None] == owner_of) | (owner_of == -1)
    return {
        "input_ids": torch.tensor([tokens]),
        "position_ids": torch.tensor([positions]),
        "attention_mask": sees.tril()[None, None],
        "logits_to_keep": torch.tensor(predicted_from),
        "targets": torch.tensor([token for one in ordered for token in one.answer]),
        "opens_answer": torch.tensor([i == 0 for one in ordered for i in range(len(one.answer))]),
        "n_negative": sum(len(one.answer) for one in ordered if one.is_negative),
        "end_of_negative": len(opening)
        + sum(
            len(one.prompt) - len(opening) + len(one.answer) for one in ordered if one.is_negative
        ),
    }
