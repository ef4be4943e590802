"""Answers without the reasoning text that some models write before them."""

from __future__ import annotations

import re

_OPENING = r"<(?:think|thinking|thought|reasoning|reflection)>|\[think\]|◁think▷"
_CLOSING = r"</(?:think|thinking|thought|reasoning|reflection)>|\[/think\]|◁/think▷"
_TAG = re.compile(rf"(?P<closing>{_CLOSING})|{_OPENING}", re.IGNORECASE)
_LETTER = re.compile(r"\w")

# gpt-oss, with its special tokens and as it reads once a tokenizer has dropped them.
_CHANNEL = re.compile(r"<\|channel\|>\s*(?P<name>\w{1,30})[^<]{0,100}<\|message\|>", re.IGNORECASE)
_ANY_CHANNEL = re.compile(r"<\|channel\|>", re.IGNORECASE)
_TURN_END = re.compile(r"<\|(?:return|end|call)\|>.*", re.IGNORECASE | re.DOTALL)
_BARE_CHANNELS = re.compile(r"\W*analysis.*?assistantfinal", re.IGNORECASE | re.DOTALL)


def without_reasoning(answer: str) -> str:
    r"""What an answer says after its reasoning.

    >>> without_reasoning("<think>The user greets me.</think>\n\nHello!")
    'Hello!'
    >>> without_reasoning("<think>This may take a while, so let me")
    ''
    >>> without_reasoning("Hello!")
    'Hello!'

    Skipped are leading blocks of `<think>`, `<thinking>`, `<thought>`, `<reasoning>`,
    `<reflection>`, `[THINK]` and `◁think▷`, whatever stands before a closing tag that nothing
    opened (some chat templates open it in the prompt), and every channel of gpt-oss but the final
    one, with its special tokens or without.

    Returns:
        The answer as it is if it has no reasoning; "" if the reasoning has not ended, since then
        there is no answer yet.
    """
    if _ANY_CHANNEL.search(answer):
        return _final_channel(answer)
    if bare := _BARE_CHANNELS.match(answer):
        return answer[bare.end() :].strip()
    start, tag = 0, _TAG.search(answer)
    while tag is not None:
        if not tag["closing"]:
            if _LETTER.search(answer, start, tag.start()):
                break  # A tag inside an answer is what the answer is about.
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
