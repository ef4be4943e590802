"""Texts of tokens for a reader, who sees whole characters, and how many tokens there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate, groupby
from typing import Any

import regex
from transformers.convert_slow_tokenizer import bytes_to_unicode

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.running.batching import is_whole

WORD_START = "▁"
UNDECODABLE = "\ufffd"

# A reader's character is an extended grapheme cluster of Unicode (UAX 29). It makes one cluster of
# a carriage return and a line feed, which are two tokens' texts that a view writes out.
CHARACTER = regex.compile(r"[\r\n]|\X")
# UTF-8 has at most four bytes a character, but a token may end one character and begin the next.
LONGEST = 16


def token_texts(model: HookedModel, ids: Iterable[int]) -> tuple[str, ...]:
    r"""Decode the tokens of one text, special ones by their names; joined, they are the text.

    A character stands whole at its first token: a Chinese character that is two tokens, an emoji
    of several code points, a letter with its combining marks. The text of its further tokens is
    "". Tokens that form no character, such as the first half of one, are written as bytes: `\xe4`.

    >>> token_texts(tiny_model, [5, 2])
    ('w5', 'w2')
    """
    if model.tokenizer is None:
        return tuple(map(str, ids))
    texts: list[str] = []
    pieces = _pieces(model.tokenizer, tuple(ids))
    for is_text, run in groupby(pieces, key=lambda piece: piece[1]):
        run_texts = [text for text, _ in run]
        texts.extend(_at_first_tokens(run_texts) if is_text else run_texts)
    return tuple(texts)


def lone_token_texts(model: HookedModel, ids: Iterable[int]) -> tuple[str, ...]:
    r"""Decode tokens that do not follow each other, such as alternatives in one place.

    No text is empty. A token that is part of a character is written as bytes: `\xe4\xbd`.

    >>> lone_token_texts(tiny_model, [5, 2])
    ('w5', 'w2')
    """
    if model.tokenizer is None:
        return tuple(map(str, ids))
    return tuple(_lone(model.tokenizer, token) for token in ids)


def check_k(model: HookedModel, k: int) -> None:
    """Raise InputError unless k is a whole number, and the vocabulary has k tokens."""
    size = int(model.cfg.d_vocab)
    if not is_whole(k, 1) or k > size:
        raise InputError(
            f"k is {k!r}, expected a whole number from 1 to {size}, the number of tokens"
        )


def _pieces(tokenizer: Any, ids: tuple[int, ...]) -> Iterator[tuple[str, bool]]:
    """Each token's text, and whether it is text; otherwise it names the token or its bytes.

    The first of several tokens that only together are text has all of it.
    """
    special = set(tokenizer.all_special_ids)
    start = 0
    while start < len(ids):
        alone = ids[start] in special or not _decoded(tokenizer, ids[start : start + 1])
        longest = 0 if alone else min(LONGEST, len(ids) - start)
        for length in range(1, longest + 1):
            together = ids[start : start + length]
            if _is_text(tokenizer, together):
                yield _decoded(tokenizer, together), True
                yield from [("", True)] * (length - 1)
                start += length
                break
        else:
            yield _lone(tokenizer, ids[start]), False
            start += 1


def _at_first_tokens(texts: Sequence[str]) -> Iterator[str]:
    """Move what continues a character to the token in which the character begins."""
    joined = "".join(texts)
    ends = iter(accumulate(map(len, CHARACTER.findall(joined))))
    end = place = 0
    for text in texts:
        start = max(place, end)
        place += len(text)
        while end < place:
            end = next(ends)
        yield joined[start:end]


def _lone(tokenizer: Any, token: int) -> str:
    """A token's own text, or its bytes or name where it has none."""
    if _is_text(tokenizer, (token,)):
        return _decoded(tokenizer, (token,))
    content = _bytes(tokenizer, token)
    if content:
        return content.decode("utf-8", errors="backslashreplace")
    # The vocabulary of a model may be larger than that of its tokenizer.
    return str(tokenizer.convert_ids_to_tokens(token) or token)


def _is_text(tokenizer: Any, ids: Sequence[int]) -> bool:
    """Whether tokens begin and end between characters."""
    text = _decoded(tokenizer, ids)
    if UNDECODABLE not in text:
        return bool(text)
    # It stands for bytes that are no character, unless the bytes spell this very character.
    contents = [_bytes(tokenizer, token) for token in ids]
    try:
        return b"".join(content or b"\xff" for content in contents).decode("utf-8") == text
    except UnicodeDecodeError:
        return False


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    raw = str(tokenizer.convert_ids_to_tokens(ids[0]))
    spaces = len(raw) - len(raw.lstrip(WORD_START))
    # Where a mark begins each word, decoding a word by itself drops the space.
    return " " * spaces + text.lstrip(" ") if spaces and not text.startswith(WORD_START) else text


def _bytes(tokenizer: Any, token: int) -> bytes | None:
    """The bytes that a token's name spells, in one of the ways in which tokenizers spell them."""
    raw: str | bytes | None = tokenizer.convert_ids_to_tokens(token)
    if raw is None or isinstance(raw, bytes):
        return raw
    if byte := regex.fullmatch("<0x([0-9A-Fa-f]{2})>", raw):
        return bytes.fromhex(byte[1])
    letters = _byte_of_letter()
    if not all(letter in letters for letter in raw):
        return None
    content = bytes(letters[letter] for letter in raw)
    same = content.decode("utf-8", errors="replace") == _decoded(tokenizer, (token,))
    return content if same else None


@cache
def _byte_of_letter() -> dict[str, int]:
    """The byte of each letter in which byte-level tokenizers spell their tokens."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
