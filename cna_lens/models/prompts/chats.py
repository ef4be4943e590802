"""Chats as text: the settings of a chat template, and what it makes of messages."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.meta import find_undeclared_variables
from jinja2.nodes import Node
from jinja2.parser import Parser

from cna_lens.errors import InputError
from cna_lens.models.prompts.reasoning_formats import ReasoningFormat, answer_in

Message = Mapping[str, Any]

TEMPLATE_DATE: Final = datetime.date(2025, 1, 1)
"""The day that chat templates take for today, unless `ChatSettings` say another."""

_CLOCK = re.compile(r"""strftime_now\(\s*(?P<quote>["'])(?P<format>.*?)(?P=quote)\s*\)""")
# No template has these words, so they are found where the template puts them.
_SAMPLE = "what cna_lens asks"
_ANY_CLOCK = re.compile(r"strftime_now\s*\(")
# These say what is rendered, not how.
_NOT_OPTIONS = frozenset(
    {
        *("add_generation_prompt", "chat_template", "continue_final_message", "conversation"),
        *("documents", "max_length", "messages", "padding", "return_assistant_tokens_mask"),
        *("return_dict", "return_tensors", "sanitize_control_tokens", "tokenize"),
        *("tokenizer_kwargs", "tools", "truncation"),
    }
)


@dataclass(frozen=True)
class ChatSettings:
    """How prompts are put into the chat template; every `chat=` takes them.

    >>> short = ChatSettings(system="w7", options={"enable_thinking": False})
    >>> short.options["enable_thinking"], short.date.isoformat()
    (False, '2025-01-01')

    Some templates write today's date. So that the same prompts have the same tokens tomorrow, they
    are given `date` instead. A circuit records the options, the date, and hashes of the other
    settings (`Provenance.chat`).

    Attributes:
        system: a system message before each prompt; one that has its own is refused.
        options: variables of the template, such as `enable_thinking` or `reasoning_effort`. The
            template's text says which it has.
        tools: JSON schemas of the tools that the template shows.
        date: the day that the template takes for today.
        parts: give content as a list of parts, as templates of models with images may want it.
        reasoning: markers of the model's reasoning, where `REASONING_FORMATS` lack them.

    Raises:
        InputError: a setting has another type than it must have, an option cannot be written as
            JSON, or is no variable of a template, or the date is none.
    """

    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tools: Sequence[Mapping[str, Any]] = ()
    date: datetime.date = TEMPLATE_DATE
    parts: bool = False
    reasoning: Sequence[ReasoningFormat] = ()

    def __post_init__(self) -> None:
        """Reject options that no template can read, and keep what was given from changing."""
        _check_types(self.system, self.options, self.tools, self.reasoning)
        if taken := sorted(_NOT_OPTIONS & set(self.options)):
            raise InputError(
                f"options holds {taken[0]!r}, expected variables of the chat template alone; "
                "tools have an argument of their own, and messages decide the rest"
            )
        for name in ("options", "tools"):
            try:
                json.dumps(_plain(getattr(self, name)))
            except TypeError as error:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, expected values that JSON has: {error}"
                ) from error
        _check_date(self.date)
        object.__setattr__(self, "options", dict(self.options))
        object.__setattr__(self, "tools", tuple(self.tools))
        object.__setattr__(self, "reasoning", tuple(self.reasoning))


class ChatTemplate:
    """The chat template of a tokenizer under settings."""

    def __init__(self, tokenizer: Any, model: str, settings: ChatSettings) -> None:
        """Take the template, and freeze its date.

        Args:
            tokenizer: has a chat template.
            model: the model's name, for errors.
            settings: how prompts are put into it.

        Raises:
            InputError: the template cannot do what the settings say.
        """
        self.tokenizer = tokenizer
        self.model = model
        self.settings = settings
        tools = [_plain(tool) for tool in settings.tools]
        self.tools: list[dict[str, Any]] | None = cast("list[dict[str, Any]]", tools) or None
        try:
            template: str = tokenizer.get_chat_template(tools=self.tools)
        except ValueError as error:
            raise InputError(
                f"{model} has no single chat template: {_first_line(error)}"
            ) from error
        self.template = self._frozen(template)
        named = {**settings.options, **({"tools": None} if self.tools else {})}
        variables = self._variables(template) if named else set[str]()
        for name in named:
            if name not in variables:
                raise InputError(
                    f"the chat template of {model} does not read {name!r}, so that it would change "
                    "nothing; leave it out, or look for its name in "
                    "model.tokenizer.chat_template"
                )
        self.has_clock = self.template != template

    def _variables(self, template: str) -> set[str]:
        """Find what a template reads of what it is given; names in its texts are no variables."""
        try:
            return find_undeclared_variables(_SYNTAX.parse(template))
        except jinja2.TemplateError as error:
            raise InputError(
                f"the chat template of {self.model} cannot be read: {_first_line(error)}; mend it "
                "in model.tokenizer.chat_template"
            ) from error

    def _frozen(self, template: str) -> str:
        date = self.settings.date
        frozen = _CLOCK.sub(lambda call: json.dumps(date.strftime(call["format"])), template)
        if _ANY_CLOCK.search(frozen):
            raise InputError(
                f"the chat template of {self.model} asks for today's date in a format that is no "
                "plain string, so that its date cannot be set; write the date into "
                "model.tokenizer.chat_template"
            )
        return frozen

    @property
    def record(self) -> str | None:
        """The settings that change tokens as JSON, with hashes of texts; None for the defaults."""
        settings = self.settings
        entries: dict[str, Any] = {}
        if self.has_clock:
            entries["date"] = settings.date.isoformat()
        if settings.options:
            entries["options"] = _plain(settings.options)
        if settings.parts:
            entries["parts"] = True
        if settings.system is not None:
            entries["system_sha256"] = _sha256(settings.system)
        if self.tools:
            entries["tools_sha256"] = _sha256(json.dumps(self.tools, sort_keys=True))
        return json.dumps(entries, sort_keys=True) if entries else None

    def render(self, messages: Sequence[Message], where: str) -> str:
        """Write messages as the template does, ready for the answer.

        A last message of the assistant is left open, to be continued.

        Args:
            messages: the chat.
            where: the name of the prompt in errors.

        Raises:
            InputError: the template refuses the messages, or leaves out or changes their text.
        """
        chat = self._given(self._with_system(messages, where))
        try:
            text = self.apply(chat)
        except Exception as error:
            raise InputError(
                f"{where} does not go through the chat template of {self.model}: "
                f"{_first_line(error)}; {self._advice(chat)}"
            ) from error
        if (message := _lost(chat, text, self.settings.reasoning)) is not None:
            raise InputError(
                f"the chat template of {self.model} leaves out or changes what the "
                f"{message['role']} says in {where}; {self._advice(chat)}"
            )
        return text

    def _with_system(self, messages: Sequence[Message], where: str) -> list[Message]:
        chat = list(messages)
        if self.settings.system is None:
            return chat
        if any(message["role"] == "system" for message in chat):
            raise InputError(
                f"{where} has a system message, and so have the ChatSettings; leave one out"
            )
        return [{"role": "system", "content": self.settings.system}, *chat]

    def _given(self, messages: Sequence[Message]) -> list[Message]:
        """Give messages as the template takes them."""
        return [_in_parts(each) if self.settings.parts else dict(each) for each in messages]

    def apply(self, chat: Sequence[Message], *, open_ended: bool = True) -> str:
        """Write messages unchecked, ready for the answer if they are to stay open-ended."""
        answer_begun = open_ended and chat[-1]["role"] == "assistant"
        return str(
            self.tokenizer.apply_chat_template(
                list(chat),
                chat_template=self.template,
                tools=self.tools,
                tokenize=False,
                add_generation_prompt=open_ended and not answer_begun,
                continue_final_message=answer_begun,
                **self.settings.options,
            )
        )

    def _advice(self, chat: Sequence[Message]) -> str:
        """Say what to change, by what the template does with content of the other kind."""
        in_parts = list(map(_in_parts, chat))
        in_strings = [{**each, "content": text_of(each["content"])} for each in chat]
        if chat != in_parts and self._takes(in_parts):
            return "it takes content in parts: pass chat=ChatSettings(parts=True)"
        if chat != in_strings and self._takes(in_strings):
            return "it takes content as one string: leave parts out"
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in chat))
        return (
            f"change the messages (their roles: {roles}), set model.tokenizer.chat_template, or "
            "pass token ids"
        )

    def _takes(self, chat: Sequence[Message]) -> bool:
        try:
            return _lost(chat, self.apply(chat), self.settings.reasoning) is None
        except Exception:
            return False


class _Generation(Extension):
    """The tag in which a template of Transformers puts what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# The syntax of Transformers' templates; no template is rendered with it.
_SYNTAX: Final = jinja2.Environment(extensions=[_Generation, loopcontrols])


def behind_answer(tokenizer: Any, model: str) -> str:
    """Give what a chat template writes behind an answer, "" where it shows no such answer.

    Args:
        tokenizer: has a chat template.
        model: the model's name, for errors.

    Raises:
        InputError: the template cannot be used.
    """
    chat: list[Message] = [
        {"role": "user", "content": _SAMPLE},
        {"role": "assistant", "content": _SAMPLE},
    ]
    template = ChatTemplate(tokenizer, model, ChatSettings())
    for given in (chat, list(map(_in_parts, chat))):
        try:
            text = template.apply(given, open_ended=False)
        except Exception:
            # A template without turns of the assistant tells nothing about their end.
            continue
        _, found, behind = text.rpartition(_SAMPLE)
        if found:
            return behind
    return ""


def _check_types(system: object, options: object, tools: object, reasoning: object) -> None:
    """Raise InputError unless settings have their types: a string is a sequence of strings too."""
    if not isinstance(system, str | None):
        raise InputError(f"system is {system!r}, expected a string")
    if not isinstance(options, Mapping) or not all(isinstance(name, str) for name in options):
        raise InputError(
            f"options is {options!r}, expected values by the names of the template's variables, "
            'such as {"enable_thinking": False}'
        )
    for name, given, kind, said in (
        ("tools", tools, Mapping, "JSON schemas, each a mapping"),
        ("reasoning", reasoning, ReasoningFormat, "ReasoningFormat(opening, closing)"),
    ):
        if not isinstance(given, list | tuple) or not all(
            isinstance(each, kind) for each in cast("Sequence[object]", given)
        ):
            raise InputError(f"{name} is {given!r}, expected a list of {said}")


def _check_date(date: object) -> None:
    if not isinstance(date, datetime.date):
        raise InputError(
            f"date is {date!r}, expected a datetime.date, such as datetime.date(2025, 1, 1)"
        )


def text_of(content: object) -> str:
    """Give the text of a message's content, a string or a list of parts."""
    return "\n".join(_texts(content))


def check_message(message: Message, where: str) -> None:
    """Raise InputError unless a message has a role, and content of text alone."""
    if not {"role", "content"} <= set(message):
        raise InputError(f"{where} holds {dict(message)!r}, expected the keys 'role' and 'content'")
    content = message["content"]
    parts = cast("list[object]", content) if isinstance(content, list) else []
    if isinstance(content, str) or (parts and all(map(_is_text, parts))):
        return
    raise InputError(
        f"{where} has a message whose content is a {type(content).__name__}, expected a string, or "
        "a list of parts {'type': 'text', 'text': …}"
    )


def _is_text(part: object) -> bool:
    return isinstance(part, Mapping) and isinstance(cast("Message", part).get("text"), str)


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for part in cast("list[Message]", content):
        yield part["text"]


def _in_parts(message: Message) -> Message:
    parts = [{"type": "text", "text": text} for text in _texts(message["content"])]
    return {**message, "content": parts}


def _lost(chat: Sequence[Message], rendered: str, own: Sequence[ReasoningFormat]) -> Message | None:
    """Find a message whose text a template does not write, or whose parts it writes as a list."""
    for message in chat:
        content = message["content"]
        written = (
            ()
            if isinstance(content, str)
            else (str(content), json.dumps(content, ensure_ascii=False))
        )
        if any(each in rendered for each in written):
            return message
        for text in _texts(content):
            # Templates leave out the reasoning of earlier turns on purpose.
            kept = answer_in(text, own) if message["role"] == "assistant" else text
            if text.strip() not in rendered and kept.strip() not in rendered:
                return message
    return None


def _plain(value: Any) -> Any:
    """Give mappings and sequences as the types that JSON and templates know."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in cast("Message", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    return value


def _first_line(error: Exception) -> str:
    """Give the beginning of an error's message; what follows may repeat the prompt."""
    lines = str(error).strip().splitlines()
    return lines[0].split("!")[0][:200] if lines else type(error).__name__


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
