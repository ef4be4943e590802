from itertools import pairwise

import pytest
from hypothesis import example, given, settings, strategies as st

from cna_lens.models import length_buckets, pad, shared_prefix_length

LENGTHS = st.lists(st.integers(1, 30), max_size=25)
# Two different tokens only, so that prompts often begin alike.
IDS = st.lists(st.integers(0, 1), min_size=1, max_size=8).map(tuple)
PROMPTS = st.lists(IDS, min_size=1, max_size=6)


@given(LENGTHS, st.none() | st.integers(1, 60), st.none() | st.integers(1, 6))
@settings(deadline=None)
def test_buckets_hold_every_prompt_once_and_stay_within_the_budget(lengths, budget, most):
    buckets = length_buckets(lengths, token_budget=budget, max_prompts=most)
    assert sorted(place for bucket in buckets for place in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        assert bucket
        assert most is None or len(bucket) <= most
        padded = max(lengths[place] for place in bucket) * len(bucket)
        assert budget is None or padded <= budget or len(bucket) == 1


@example([5, 5], 10, 6)
@given(LENGTHS, st.integers(1, 60), st.integers(1, 6))
@settings(deadline=None)
def test_prompts_of_similar_length_run_together_and_no_bucket_is_split_needlessly(
    lengths, budget, most
):
    buckets = length_buckets(lengths, token_budget=budget, max_prompts=most)
    for bucket, following in pairwise(buckets):
        assert max(lengths[place] for place in bucket) <= min(lengths[place] for place in following)
        next_longest = min(lengths[place] for place in following)
        together = len(bucket) + 1
        assert together > most or next_longest * together > budget


def test_without_limits_all_prompts_run_together():
    assert len(length_buckets([3, 1, 2])) == 1


@given(PROMPTS, st.none() | st.integers(0, 9))
@settings(deadline=None)
def test_the_shared_prefix_equals_the_slow_definition(prompts, at_most):
    shortest = min(map(len, prompts))
    allowed = range(shortest if at_most is None else min(shortest, at_most + 1))
    expected = max(n for n in allowed if len({prompt[:n] for prompt in prompts}) == 1)
    assert shared_prefix_length(prompts, at_most) == expected


@given(IDS, PROMPTS)
@settings(deadline=None)
def test_a_common_beginning_is_found_whole(beginning, rest):
    shared = shared_prefix_length([beginning + tail for tail in rest])
    assert shared >= len(beginning)


@pytest.mark.parametrize("side", ["right", "left"])
@given(prompts=PROMPTS)
@settings(deadline=None)
def test_padding_adds_only_masked_tokens_on_its_side(prompts, side):
    ids, mask = pad(prompts, 9) if side == "right" else pad(prompts, 9, side)
    longest = max(map(len, prompts))
    for row, prompt in enumerate(prompts):
        filler, ones = [9] * (longest - len(prompt)), [1] * len(prompt)
        zeros = [0] * len(filler)
        right = side == "right"
        assert ids[row].tolist() == ([*prompt, *filler] if right else [*filler, *prompt])
        assert mask[row].tolist() == (ones + zeros if right else zeros + ones)
