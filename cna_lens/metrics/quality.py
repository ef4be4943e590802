"""Measures of repetition within an answer, and between answers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from cna_lens.errors import InputError


def ngram_quality(answer: str, n: int = 4) -> float | None:
    r"""The share of distinct n-grams of words in an answer.

    $$q = \frac{\text{distinct n-grams}}{\text{n-grams}}$$

    The paper uses n = 4 (arXiv 2605.12290). The answer should end where the model ended its turn,
    as answers of `cna_lens.generate` do, because models repeat themselves after it.

    >>> ngram_quality("one two three four five")
    1.0
    >>> ngram_quality("a b c d a b c d a b c d")
    0.4444444444444444
    >>> ngram_quality("Yes.") is None
    True

    Returns:
        A share in (0, 1], or None for an answer of fewer than n words.

    Raises:
        InputError: n is below 1.
    """
    grams = _ngrams(answer, n)
    return len(set(grams)) / len(grams) if grams else None


def distinct_n(answers: Sequence[str], n: int = 2) -> float | None:
    r"""The share of distinct n-grams of words among those of all answers together.

    $$\frac{\text{distinct n-grams}}{\text{n-grams}}$$

    The share falls if answers repeat each other, which no measure of a single answer detects. It
    also falls with the number of words, so compare answers of similar number and length. Source: Li
    et al., arXiv 1510.03055.

    >>> distinct_n(["I cannot help", "I cannot help"])
    0.5

    Returns:
        A share in (0, 1], or None if no answer has n words.

    Raises:
        InputError: n is below 1, or the answers are a single text.
    """
    if isinstance(answers, str):
        raise InputError("answers is one string, expected a list of strings")
    grams = [gram for answer in answers for gram in _ngrams(answer, n)]
    return len(set(grams)) / len(grams) if grams else None


def compression_ratio(answer: str) -> float | None:
    """The factor by which zlib compresses an answer, which detects loops.

    Ordinary prose of a few sentences stays below 2.4. Loops are far above, even without spaces
    between words or with a period of more than four words. Answers of a few words are below 1,
    because zlib adds a header.

    >>> compression_ratio("no " * 100) > 10
    True
    >>> compression_ratio("") is None
    True

    Returns:
        The number of bytes divided by that of compressed bytes, None for an empty answer.
    """
    text = answer.encode()
    return len(text) / len(zlib.compress(text)) if text else None


def _ngrams(answer: str, n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise InputError(f"n is {n}, expected at least 1 word")
    words = answer.split()
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
