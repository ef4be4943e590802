"""Single tokens: their text for a reader, and how many of them there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel

WORD_START = "▁"
UNDECODABLE = "\ufffd"


def token_texts(model: HookedModel, ids: Iterable[int]) -> tuple[str, ...]:
    """Decode each token by itself, special ones by their names; no text is empty.

    A token that is part of a character has no text; it is given in the tokenizer's own letters.

    >>> token_texts(tiny_model, [5, 2])
    ('w5', 'w2')
    """
    if model.tokenizer is None:
        return tuple(map(str, ids))
    return tuple(_text(model.tokenizer, token) for token in ids)


def check_k(model: HookedModel, k: int) -> None:
    """Raise InputError unless the vocabulary has k tokens."""
    size = int(model.cfg.d_vocab)
    if not 1 <= k <= size:
        raise InputError(f"k is {k}, expected 1 to {size}, the number of tokens")


def _text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token])
    raw = str(tokenizer.convert_ids_to_tokens(token))
    if not text or UNDECODABLE in text:
        return raw or str(token)
    # Where a mark begins each word, decoding a word by itself drops the space.
    return f" {text}" if raw.startswith(WORD_START) and not text.startswith(" ") else text
