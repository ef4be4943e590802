"""Remove the reasoning that some models write before their answers."""

from __future__ import annotations

import re

_OPENING = r"<(?:think|thinking|thought|reasoning|reflection)>|\[think\]|◁think▷"
_CLOSING = r"</(?:think|thinking|thought|reasoning|reflection)>|\[/think\]|◁/think▷"
_TAG = re.compile(rf"(?P<closing>{_CLOSING})|{_OPENING}", re.IGNORECASE)
_LETTER = re.compile(r"\w")

# gpt-oss, with its special tokens, and without them, as a tokenizer may decode it.
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w{1,30})[^<]{0,100}<\|message\|>", re.IGNORECASE)
_ANY_CHANNEL = re.compile(r"<\|channel\|>", re.IGNORECASE)
_TURN_END = re.compile(r"<\|(?:return|end|call)\|>.*", re.IGNORECASE | re.DOTALL)
_BARE_CHANNELS = re.compile(r"\W*analysis.*?assistantfinal", re.IGNORECASE | re.DOTALL)


def without_reasoning(answer: str) -> str:
    r"""Remove the reasoning before an answer.

    >>> without_reasoning("<think>The user greets me.</think>\n\nHello!")
    'Hello!'
    >>> without_reasoning("<think>This may take a while, so let me")
    ''
    >>> without_reasoning("Hello!")
    'Hello!'

    This removes leading blocks of `<think>`, `<thinking>`, `<thought>`, `<reasoning>`,
    `<reflection>`, `[THINK]` and `◁think▷`. It also removes all text before a closing tag without
    an opening one, which some chat templates put into the prompt, and every channel of gpt-oss
    except the final one, with or without its special tokens.

    Returns:
        The answer, unchanged if it has no reasoning, "" if the reasoning has not ended.
    """
    if _ANY_CHANNEL.search(answer):
        return _final_channel(answer)
    if bare := _BARE_CHANNELS.match(answer):
        return answer[bare.end() :].strip()
    start, tag = 0, _TAG.search(answer)
    while tag is not None:
        if not tag["closing"]:
            if _LETTER.search(answer, start, tag.start()):
                break  # A tag after the beginning of an answer belongs to its content.
            tag = _next_closing(answer, tag.end())
            if tag is None:
                return ""
        start = tag.end()
        tag = _TAG.search(answer, start)
    return answer[start:].strip() if start else answer


def _next_closing(answer: str, start: int) -> re.Match[str] | None:
    return next((tag for tag in _TAG.finditer(answer, start) if tag["closing"]), None)


def _final_channel(answer: str) -> str:
    finals = [found for found in _CHANNEL.finditer(answer) if found["name"].lower() == "final"]
    return _TURN_END.sub("", answer[finals[-1].end() :]).strip() if finals else ""
