"""Remove the reasoning that some models write before their answers."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.models.prompts.reasoning_formats import ReasoningFormat, answer_in


def without_reasoning(answer: str, reasoning: Sequence[ReasoningFormat] = ()) -> str:
    r"""Remove the reasoning before an answer.

    >>> without_reasoning("<think>The user greets me.</think>\n\nHello!")
    'Hello!'
    >>> without_reasoning("<think>This may take a while, so let me")
    ''
    >>> without_reasoning("Hello!")
    'Hello!'

    This removes leading blocks between the markers of `REASONING_FORMATS`, and of your own. It
    also removes all text before a closing marker without an opening one, which some chat templates
    put into the prompt, and every channel of gpt-oss except the final one, with or without its
    special tokens. `generate` keeps special tokens that are such markers in the text.

    Args:
        answer: what a model wrote.
        reasoning: formats beside `REASONING_FORMATS`.

    Returns:
        The answer, unchanged if it has no reasoning, "" if the reasoning has not ended.
    """
    return answer_in(answer, reasoning)
