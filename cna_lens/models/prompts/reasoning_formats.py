"""The markers between which models write their reasoning, and where the answer begins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cna_lens.errors import InputError

_LETTER = re.compile(r"\w")
# gpt-oss without its special tokens, as a tokenizer may decode it.
_BARE_CHANNELS = re.compile(r"\W*analysis.*?assistantfinal", re.IGNORECASE | re.DOTALL)
# The header of a gpt-oss message may say more before this token, such as a recipient.
_HEADER_END = re.escape("<|message|>")
_REST_OF_HEADER = rf"(?:(?!{_HEADER_END}).){{0,100}}{_HEADER_END}"
# Some templates name the channel behind the opening marker.
_NAME_OF_CHANNEL = rf"\w{{0,20}}(?:{_HEADER_END})?\s*\Z"
# More tokens than any marker has.
TAIL: Final = 32


@dataclass(frozen=True)
class ReasoningFormat:
    """The markers around a model's reasoning, as the tokenizer writes them.

    >>> from cna_lens.metrics import without_reasoning
    >>> own = ReasoningFormat("<scratchpad>", "</scratchpad>")
    >>> without_reasoning("<scratchpad>Which city?</scratchpad>Paris.", [own])
    'Paris.'

    Attributes:
        opening: stands before the reasoning.
        closing: stands behind it.
        source: where the format is described.
        answer_opening: stands before the answer, in formats that mark it too.
        answer_closings: what ends the answer, in these formats.
        opened_by_template: whether a chat template may write the opening, so that the closing
            alone ends the reasoning.

    Raises:
        InputError: a marker is empty, or both are the same.
    """

    opening: str
    closing: str
    source: str = ""
    answer_opening: str = ""
    answer_closings: tuple[str, ...] = ()
    opened_by_template: bool = True

    def __post_init__(self) -> None:
        """Reject markers that cannot be told apart."""
        if not self.opening.strip() or not self.closing.strip() or self.opening == self.closing:
            raise InputError(
                f"the reasoning stands between {self.opening!r} and {self.closing!r}, expected two "
                "different markers, neither of them empty"
            )
        object.__setattr__(self, "answer_closings", tuple(self.answer_closings))


_THINK = "<think>", "</think>"
_HUB = "https://huggingface.co/"
_VLLM = "https://github.com/vllm-project/vllm/blob/main/vllm/reasoning/"

REASONING_FORMATS: Final = (
    ReasoningFormat(*_THINK, f"{_HUB}deepseek-ai/DeepSeek-R1"),
    ReasoningFormat(
        *_THINK, f"{_HUB}tencent/Hunyuan-A13B-Instruct", "<answer>", answer_closings=("</answer>",)
    ),
    ReasoningFormat(
        "<thinking>",
        "</thinking>",
        f"{_HUB}mattshumer/Reflection-Llama-3.1-70B",
        "<output>",
        ("</output>",),
    ),
    ReasoningFormat("<reflection>", "</reflection>", f"{_HUB}mattshumer/Reflection-Llama-3.1-70B"),
    ReasoningFormat("<thought>", "</thought>", f"{_HUB}LGAI-EXAONE/EXAONE-Deep-32B"),
    ReasoningFormat(
        "<reasoning>",
        "</reasoning>",
        "https://github.com/open-webui/open-webui/blob/main/backend/open_webui/utils/middleware.py",
    ),
    ReasoningFormat("[THINK]", "[/THINK]", f"{_HUB}mistralai/Magistral-Small-2509"),
    ReasoningFormat(
        "\u25c1think\u25b7", "\u25c1/think\u25b7", f"{_HUB}moonshotai/Kimi-VL-A3B-Thinking"
    ),
    ReasoningFormat(
        "<|channel|>",
        "<|channel|>final<|message|>",
        "https://cookbook.openai.com/articles/openai-harmony",
        answer_closings=("<|return|>", "<|end|>", "<|call|>", "<|channel|>"),
    ),
    ReasoningFormat(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        f"{_HUB}CohereLabs/command-a-reasoning-08-2025",
        "<|START_RESPONSE|>",
        ("<|END_RESPONSE|>",),
    ),
    ReasoningFormat("<seed:think>", "</seed:think>", f"{_HUB}ByteDance-Seed/Seed-OSS-36B-Instruct"),
    ReasoningFormat("<|channel>", "<channel|>", f"{_VLLM}gemma4_reasoning_parser.py"),
    ReasoningFormat(
        "<unused94>",
        "<unused95>",
        "https://ollama.com/jordimurgo/medgemma1.5-thinking",
    ),
    ReasoningFormat("<|inner_prefix|>", "<|inner_suffix|>", f"{_VLLM}apertus_reasoning_parser.py"),
    ReasoningFormat(
        "[unused16]",
        "[unused17]",
        "https://github.com/vllm-project/vllm/blob/4ade7b8d2b108b252b1c0d26c7e003d129fcd606/"
        "vllm/reasoning/pangu_reasoning_parser.py",
    ),
    ReasoningFormat(
        "<|begin_of_thought|>",
        "<|end_of_thought|>",
        f"{_HUB}NovaSky-AI/Sky-T1-32B-Preview",
        "<|begin_of_solution|>",
        ("<|end_of_solution|>",),
    ),
    ReasoningFormat(
        "Here are my reasoning steps:",
        "[BEGIN FINAL RESPONSE]",
        f"{_HUB}ServiceNow-AI/Apriel-1.5-15b-Thinker",
        answer_closings=("[END FINAL RESPONSE]",),
    ),
    *(
        ReasoningFormat(
            f"{here} my thought process:",
            f"{here} my response:",
            f"{_VLLM}granite_reasoning_parser.py",
            opened_by_template=False,
        )
        for here in ("Here is", "Here's")
    ),
)
"""The formats that are known, each with the page that describes it."""


def answer_start(text: str, own: Sequence[ReasoningFormat] = ()) -> int | None:
    """Find where the answer begins in a text: behind its reasoning, 0 if there is none.

    >>> answer_start("[THINK]Hm.[/THINK]Paris.")
    18
    >>> answer_start("<|START_THINKING|>Hm.") is None
    True

    Args:
        text: what a model wrote, with its markers.
        own: formats beside `REASONING_FORMATS`.

    Returns:
        The place of the first character; None if the reasoning has not ended.
    """
    return _split(text, tuple(own))[0]


def answer_in(text: str, own: Sequence[ReasoningFormat] = ()) -> str:
    """Give the answer behind the reasoning, "" if the reasoning has not ended."""
    start, formats = _split(text, tuple(own))
    if not start:
        return text if start == 0 else ""
    answer = text[start:]
    for closing in (closing for each in formats for closing in each.answer_closings):
        answer = re.split(re.escape(closing), answer, maxsplit=1, flags=re.IGNORECASE)[0]
    return answer.strip()


def may_open(text: str, own: Sequence[ReasoningFormat] = ()) -> bool:
    """Whether a text is the beginning of a marker that opens reasoning, or an answer behind it."""
    begun = text.strip().casefold()
    return any(
        marker.casefold().startswith(begun)
        for each in (*own, *REASONING_FORMATS)
        for marker in (each.opening, each.answer_opening)
    )


def closes(text: str, own: Sequence[ReasoningFormat] = ()) -> bool:
    """Whether a text holds a marker that closes reasoning."""
    return _compiled(tuple(own)).any_closing.search(text) is not None


def opening_left(text: str, own: Sequence[ReasoningFormat] = ()) -> str:
    """Give the marker of reasoning that a text opens and does not close, "" if there is none."""
    if answer_start(text, own) is not None:
        return ""
    opening = _compiled(tuple(own)).openings.search(text)
    return opening[0] if opening else ""


def opening_at_end(text: str, own: Sequence[ReasoningFormat] = ()) -> str:
    r"""Give the marker of reasoning with which a prompt ends, "" if it ends otherwise.

    >>> opening_at_end("<|assistant|><think>\n"), opening_at_end("What does <think> mean?")
    ('<think>', '')
    """
    found = _compiled(tuple(own)).ending.search(text)
    # A channel of gpt-oss opens its answer like its reasoning, but for its name.
    return found[1] if found and not closes(text[found.start() :], own) else ""


def special_markers(tokenizer: Any, own: Sequence[ReasoningFormat] = ()) -> dict[int, str]:
    """Find the special tokens of markers, which are left out of decoded text, with their texts."""
    found: dict[int, str] = {}
    for marker in _markers((*own, *REASONING_FORMATS)):
        for token in tokenizer(marker, add_special_tokens=False)["input_ids"]:
            written: str = tokenizer.decode([token]).strip()
            if written and written in marker and not _plain(tokenizer, [token]):
                found[token] = written
    return found


def marked_text(tokenizer: Any, ids: Sequence[int], special: Mapping[int, str]) -> str:
    """Decode tokens without special ones, except those of markers."""
    text, begin = "", 0
    for place, token in enumerate(ids):
        if token in special:
            text += _plain(tokenizer, ids[begin:place]) + special[token]
            begin = place + 1
    return text + _plain(tokenizer, ids[begin:])


def _plain(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _markers(formats: Iterable[ReasoningFormat]) -> set[str]:
    """Give the markers whose special tokens stay in text: without its opening, no closing does."""
    return {
        marker
        for each in formats
        for marker in (
            *(each.opening, each.closing),
            *(() if each.answer_opening else each.answer_closings),
        )
    }


@dataclass(frozen=True)
class _Compiled:
    """The markers of all formats as patterns.

    Attributes:
        formats: the formats.
        tags: every marker; its group is "c" for a closing and "o" for an opening, with the place
            of its format.
        closings: the closings of each opening.
        any_closing: every closing.
        openings: every opening.
        ending: an opening at the end of a prompt.
    """

    formats: tuple[ReasoningFormat, ...]
    tags: re.Pattern[str]
    closings: Mapping[str, re.Pattern[str]]
    any_closing: re.Pattern[str]
    openings: re.Pattern[str]
    ending: re.Pattern[str]

    def like(self, tag: re.Match[str]) -> tuple[ReasoningFormat, ...]:
        """The formats that have the marker of a tag."""
        of, kind = self.of(tag), "closing" if self.closes(tag) else "opening"
        return tuple(each for each in self.formats if getattr(each, kind) == getattr(of, kind))

    def of(self, tag: re.Match[str]) -> ReasoningFormat:
        return self.formats[int(str(tag.lastgroup)[1:])]

    def closes(self, tag: re.Match[str]) -> bool:
        return str(tag.lastgroup).startswith("c")


# Text is searched for the markers of one choice of formats at a time.
@lru_cache(maxsize=16)
def _compiled(own: tuple[ReasoningFormat, ...]) -> _Compiled:
    formats = (*own, *REASONING_FORMATS)
    # A closing of gpt-oss begins like its opening, so closings are tried first.
    tags = [f"(?P<c{n}>{_pattern(each.closing)})" for n, each in enumerate(formats)]
    tags += [f"(?P<o{n}>{_pattern(each.opening)})" for n, each in enumerate(formats)]
    openings = "|".join(_pattern(each.opening) for each in formats)
    return _Compiled(
        formats,
        re.compile("|".join(tags), _FLAGS),
        {
            opening: re.compile(
                "|".join(
                    f"(?P<c{n}>{_pattern(each.closing)})"
                    for n, each in enumerate(formats)
                    if each.opening == opening
                ),
                _FLAGS,
            )
            for opening in {each.opening for each in formats}
        },
        re.compile("|".join(_pattern(each.closing) for each in formats), _FLAGS),
        re.compile(openings, _FLAGS),
        re.compile(f"({openings}){_NAME_OF_CHANNEL}", _FLAGS),
    )


_FLAGS: Final = re.IGNORECASE | re.DOTALL


def _pattern(marker: str) -> str:
    return re.escape(marker).replace(_HEADER_END, _REST_OF_HEADER)


def _split(
    text: str, own: tuple[ReasoningFormat, ...]
) -> tuple[int | None, tuple[ReasoningFormat, ...]]:
    """Find where the answer begins, and the formats of the reasoning before it."""
    if bare := _BARE_CHANNELS.match(text):
        return bare.end(), ()
    known = _compiled(own)
    start, last, tag = 0, (), known.tags.search(text)
    while tag is not None:
        if not known.closes(tag):
            if _LETTER.search(text, start, tag.start()):
                break  # A tag after the beginning of an answer belongs to its content.
            tag = known.closings[known.of(tag).opening].search(text, tag.end())
            if tag is None:
                return None, ()
        elif not known.of(tag).opened_by_template:
            tag = known.tags.search(text, tag.end())
            continue
        start, last = tag.end(), known.like(tag)
        tag = known.tags.search(text, start)
    return _with_answer_opening(text, start, last)


def _with_answer_opening(
    text: str, start: int, formats: tuple[ReasoningFormat, ...]
) -> tuple[int, tuple[ReasoningFormat, ...]]:
    """Go on behind what opens the answer, and keep the formats that have the same there."""
    behind = text[start:].lstrip()
    for each in formats:
        opening = each.answer_opening
        if opening and behind[: len(opening)].casefold() == opening.casefold():
            return len(text) - len(behind) + len(opening), (each,)
    return start, tuple(each for each in formats if not each.answer_opening)
