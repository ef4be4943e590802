"""The text of single tokens, as a reader should see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cna_lens.models.hooked_model import HookedModel

WORD_START = "▁"
UNDECODABLE = "\ufffd"


def token_texts(model: HookedModel, ids: Iterable[int]) -> tuple[str, ...]:
    """Each token as text by itself, special ones by their names; none of them is empty.

    A token that is part of a character has no text, and is given in the tokenizer's own letters.

    >>> token_texts(tiny_model, [5, 2])
    ('w5', 'w2')
    """
    if model.tokenizer is None:
        return tuple(map(str, ids))
    return tuple(_text(model.tokenizer, token) for token in ids)


def _text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token])
    raw = str(tokenizer.convert_ids_to_tokens(token))
    if not text or UNDECODABLE in text:
        return raw or str(token)
    # Where words are marked at their start, decoding one by itself drops the space.
    return f" {text}" if raw.startswith(WORD_START) and not text.startswith(" ") else text
