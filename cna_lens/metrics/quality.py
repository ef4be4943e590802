"""Quality: does an answer repeat itself?"""

from __future__ import annotations

from cna_lens.errors import InputError


def ngram_quality(answer: str, n: int = 4) -> float | None:
    r"""One minus the share of repeated n-grams of words.

    $$q = \frac{\text{distinct n-grams}}{\text{n-grams}}$$

    The paper's measure (arXiv 2605.12290) with n = 4. Give it an answer that ends where the model
    ended its turn, as `cna_lens.generate` does: what a model writes after that repeats itself.

    >>> ngram_quality("one two three four five")
    1.0
    >>> ngram_quality("a b c d a b c d a b c d")
    0.4444444444444444
    >>> ngram_quality("Yes.") is None
    True

    Returns:
        A share in (0, 1], or None for an answer of fewer than n words, which has no n-gram.

    Raises:
        InputError: n is below 1.
    """
    if n < 1:
        raise InputError(f"n is {n}, expected at least 1 word")
    words = answer.split()
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None
