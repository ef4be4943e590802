import zlib

import pytest
from hypothesis import given, strategies as st

from cna_lens import InputError, ngram_quality
from cna_lens.metrics import compression_ratio, distinct_n

WORDS = st.lists(st.sampled_from("abc"), max_size=30)


@pytest.mark.parametrize(
    ("answer", "n", "quality"),
    [
        ("one two three four", 4, 1.0),
        ("one two three four five", 4, 1.0),
        ("a b c d a b c d a b c d", 4, 4 / 9),
        ("a a a a a a", 4, 1 / 3),
        ("a b a b a", 2, 2 / 4),
        ("a b c a b c", 3, 3 / 4),
        ("a b a c", 1, 3 / 4),
    ],
)
def test_quality_by_hand(answer, n, quality):
    assert ngram_quality(answer, n) == pytest.approx(quality, rel=1e-12)


def test_the_paper_counts_four_words():
    answer = "a b c a b c a b c"
    assert ngram_quality(answer) == ngram_quality(answer, 4) != ngram_quality(answer, 3)


@pytest.mark.parametrize("answer", ["", "   ", "Yes.", "one two three", "one two three \n "])
def test_an_answer_too_short_for_one_ngram_has_no_quality(answer):
    assert ngram_quality(answer) is None


@given(WORDS, st.integers(1, 6))
def test_quality_is_the_share_of_new_ngrams(words, n):
    quality = ngram_quality(" ".join(words), n)
    seen, new = [], 0
    for start in range(len(words)):
        gram = words[start : start + n]
        if len(gram) == n:
            new += gram not in seen
            seen.append(gram)
    assert quality == (pytest.approx(new / len(seen)) if seen else None)
    if quality is not None:
        assert 0 < quality <= 1


@given(WORDS, st.sampled_from([" ", "\n", "\t ", "  \n\n"]))
def test_the_white_space_between_and_around_words_does_not_matter(words, space):
    spaced = space + space.join(words) + space
    assert ngram_quality(spaced) == ngram_quality(" ".join(words))


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("measure", [ngram_quality, lambda answer, n: distinct_n([answer], n)])
def test_ngrams_without_words_are_rejected(measure, n):
    with pytest.raises(InputError, match=f"n is {n}, expected at least 1"):
        measure("one two three", n)


@pytest.mark.parametrize(
    ("answers", "n", "share"),
    [
        (["a b c"], 2, 1.0),
        (["a b", "a b"], 2, 1 / 2),
        (["a b a", "b a"], 2, 2 / 3),
        (["a a", "a"], 1, 1 / 3),
        (["a", "b c"], 2, 1.0),
    ],
)
def test_distinct_n_by_hand(answers, n, share):
    assert distinct_n(answers, n) == pytest.approx(share, rel=1e-12)


@pytest.mark.parametrize("answers", [[], ["", "a"]])
def test_answers_too_short_for_one_ngram_have_no_distinct_n(answers):
    assert distinct_n(answers, 2) is None


def test_one_text_is_no_list_of_answers():
    with pytest.raises(InputError, match="answers is one string"):
        distinct_n("a b a b")


@given(WORDS, st.integers(1, 4))
def test_distinct_n_of_a_single_answer_is_its_quality(words, n):
    assert distinct_n([" ".join(words)], n) == ngram_quality(" ".join(words), n)


def test_the_compression_ratio_is_zlibs():
    answer = "Grüße an alle, die hier lesen. " * 3
    raw = answer.encode()
    assert compression_ratio(answer) == len(raw) / len(zlib.compress(raw))


def test_a_loop_compresses_and_prose_does_not():
    prose = (
        "To keep basil fresh, cut the stems, stand them in a glass of water and cover the leaves "
        "loosely; change the water every other day, and never put the bunch into the refrigerator."
    )
    loop = "the cat sat on the mat and " * 12
    assert compression_ratio(prose) < 2.4 < compression_ratio(loop)
    assert compression_ratio("nonono" * 40) > 10
    assert compression_ratio("") is None
