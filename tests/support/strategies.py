"""Hypothesis strategies for prompts of the tiny models."""

import tiny
from hypothesis import strategies as st

families = st.sampled_from(tiny.FAMILIES)
# The first three are special tokens.
tokens = st.integers(3, tiny.VOCABULARY - 1)


@st.composite
def prompt_sets(draw, max_prompts=6, max_length=12):
    """Prompts that share no prefix, several tokens, all but their last, or one whole prompt."""
    prefix = draw(st.lists(tokens, max_size=8))
    longest_rest = draw(st.sampled_from([1, max_length]))
    rests = st.lists(tokens, min_size=0 if prefix else 1, max_size=longest_rest)
    return [[*prefix, *rest] for rest in draw(st.lists(rests, min_size=1, max_size=max_prompts))]
