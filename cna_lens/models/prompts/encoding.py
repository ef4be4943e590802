"""Encoding of prompts as token ids, with one template and one beginning-of-sequence token."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, cast

from torch import Tensor

from cna_lens.errors import CnaLensWarning, InputError
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.prompts.chats import ChatSettings, ChatTemplate, Message, check_message
from cna_lens.results.provenance import PromptRecord

TokenIds = tuple[int, ...]
Prompt = str | Sequence[Message] | Sequence[int] | Tensor
Chat = Literal["auto"] | bool | ChatSettings


@dataclass(frozen=True)
class EncodedPrompts:
    """Token ids of a set of prompts.

    Attributes:
        ids: the token ids of each prompt.
        record: the number of prompts, and the hash of their token ids.
        template_sha256: hash of the chat template, None where no prompt used it.
        chat: the settings of the chat template, as `Provenance` has them.
    """

    ids: tuple[TokenIds, ...]
    record: PromptRecord
    template_sha256: str | None
    chat: str | None = None

    def with_ids(self, ids: Sequence[TokenIds]) -> EncodedPrompts:
        """These prompts with other token ids, such as those of reasoning behind them."""
        return replace(self, ids=tuple(ids), record=_record(ids))


def encode(
    model: HookedModel, prompts: Sequence[Prompt], *, chat: Chat = "auto", name: str = "prompts"
) -> EncodedPrompts:
    """Encode prompts as token ids.

    Where the tokenizer has a chat template, a string becomes a user message in it, ready for the
    answer; with `chat=False` it is plain text, encoded as by the model's own `to_tokens`. Lists of
    chat messages always use the template; a list that ends with an assistant message is continued.
    Token ids stay as they are.

    >>> encode(tiny_model, ["w5 w6", [7, 8]], chat=False).ids
    ((1, 5, 6), (7, 8))

    Args:
        model: gives the tokenizer and the context length.
        prompts: strings, lists of chat messages, or token ids.
        chat: "auto" uses the template where there is one, True requires it, False never uses it.
            `ChatSettings` require it too, and say how: a system message, the template's options,
            tools, the date.
        name: the name of the prompts in errors.

    Raises:
        InputError: there are no prompts, one is invalid or longer than the context, a chat
            template is needed and missing, or it refuses a prompt, or leaves out or changes its
            text.
    """
    check_model(model)
    _check_list(prompts, name)
    encode_one = _Encoder(model, chat, name)
    ids = tuple(encode_one(prompt, place) for place, prompt in enumerate(prompts))
    return EncodedPrompts(
        ids=ids,
        record=_record(ids),
        template_sha256=_digest(encode_one.template) if encode_one.used_template else None,
        chat=encode_one.rendered.record if encode_one.used_template else None,
    )


def chat_settings(chat: Chat) -> ChatSettings:
    """The settings that `chat` stands for."""
    return chat if isinstance(chat, ChatSettings) else ChatSettings()


def _record(ids: Sequence[TokenIds]) -> PromptRecord:
    return PromptRecord(len(ids), _digest(json.dumps(ids)))


def _check_list(prompts: object, name: str) -> None:
    if isinstance(prompts, str):
        raise InputError(f"{name} is one string; pass a list of prompts: [{prompts[:40]!r}]")
    if not isinstance(prompts, Sequence | Tensor):
        raise InputError(
            f"{name} is a {type(prompts).__name__}; pass a list of prompts, such as "
            "`cna_lens.read_prompts` makes of data frames, series, data sets and other rows"
        )
    if len(cast("Sequence[object]", prompts)) == 0:
        raise InputError(f"{name} is empty; give at least one prompt")


class _Encoder:
    """Encodes one prompt at a time, and notes whether it used the template."""

    def __init__(self, model: HookedModel, chat: Chat, name: str) -> None:
        self.model = model
        self.tokenizer = model.tokenizer
        self.name = name
        template = getattr(self.tokenizer, "chat_template", None)
        self.template = template if isinstance(template, str) else json.dumps(template)
        self.has_template = template is not None
        self.used_template = False
        self.settings = chat_settings(chat)
        required = chat is True or isinstance(chat, ChatSettings)
        if not required and chat not in ("auto", False):
            raise InputError(f"chat is {chat!r}, expected 'auto', True, False or ChatSettings(...)")
        if required and not self.has_template:
            given = "chat=True" if chat is True else "chat=ChatSettings(...)"
            raise InputError(
                f"{given} needs a chat template, and the tokenizer of {model_name(model)} has "
                "none; use chat=False, or set model.tokenizer.chat_template"
            )
        self.chat = required or (chat == "auto" and self.has_template)

    @cached_property
    def rendered(self) -> ChatTemplate:
        """The chat template under the settings."""
        return ChatTemplate(self.tokenizer, model_name(self.model), self.settings)

    def __call__(self, prompt: Prompt, place: int) -> TokenIds:
        where = f"{self.name}[{place}]"
        if isinstance(prompt, str):
            message = {"role": "user", "content": prompt}
            ids = (
                self._apply_template([message], where) if self.chat else self._plain(prompt, where)
            )
        elif messages := as_messages(prompt):
            ids = self._messages(messages, where)
        else:
            ids = self._token_ids(prompt, where)
        if not ids:
            raise InputError(f"{where} has no tokens; leave it out")
        context = getattr(self.model.cfg, "n_ctx", None)
        if context and len(ids) > context:
            raise InputError(
                f"{where} has {len(ids)} tokens, the model's context holds {context}; shorten it"
            )
        return ids

    def _messages(self, messages: list[Message], where: str) -> TokenIds:
        if not self.has_template:
            raise InputError(
                f"{where} is a list of chat messages, and the tokenizer of "
                f"{model_name(self.model)} has no chat template; pass a string"
            )
        for message in messages:
            check_message(message, where)
        return self._apply_template(messages, where)

    def _apply_template(self, messages: list[Message], where: str) -> TokenIds:
        self.used_template = True
        text = self.rendered.render(messages, where)
        # The template's text already has the special tokens.
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _plain(self, text: str, where: str) -> TokenIds:
        if self.tokenizer is None:
            raise InputError(f"{where} is a string and the model has no tokenizer; pass token ids")
        with _some_padding(self.tokenizer):
            # By default to_tokens cuts a long prompt silently.
            tokens: Tensor = cast("Any", self.model).to_tokens(text, truncate=False)
        ids: list[int] = tokens[0].tolist()
        begin = self.tokenizer.bos_token_id
        if begin is not None and ids[:2] == [begin, begin]:
            ids = ids[1:]
        return tuple(ids)

    def _token_ids(self, prompt: object, where: str) -> TokenIds:
        values = prompt.tolist() if isinstance(prompt, Tensor) else prompt
        if not _are_integers(values):
            raise InputError(
                f"{where} is a {type(prompt).__name__}; a prompt is a string, a list of chat "
                "messages, or a list of token ids"
            )
        ids = tuple(map(int, cast("Sequence[int]", values)))
        size = int(self.model.cfg.d_vocab)
        if outside := [value for value in ids if not 0 <= value < size]:
            raise InputError(f"{where} holds token id {outside[0]}, expected 0 to {size - 1}")
        return ids


def _are_integers(values: object) -> bool:
    # Bytes are a sequence of integers too, but those are characters and no tokens.
    if not isinstance(values, Sequence) or isinstance(values, bytes | bytearray | memoryview):
        return False
    return all(
        not isinstance(value, bool) and isinstance(value, Integral)
        for value in cast("Sequence[object]", values)
    )


@contextmanager
def _some_padding(tokenizer: Any) -> Generator[None]:
    """Give a tokenizer a padding token while the context lasts, since to_tokens requires one."""
    if tokenizer.pad_token is not None:
        yield
        return
    tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    try:
        yield
    finally:
        tokenizer.pad_token = None


def as_messages(prompt: object) -> list[Message]:
    """Give the messages of a prompt that is a list of chat messages, none for any other."""
    if isinstance(prompt, Sequence) and not isinstance(prompt, str):
        items = cast("Sequence[object]", prompt)
        if items and all(isinstance(item, Mapping) for item in items):
            return [cast("Message", item) for item in items]
    return []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def warn_about_duplicates(
    positive: EncodedPrompts, negative: EncodedPrompts, stacklevel: int
) -> None:
    """Warn about a prompt that occurs twice in a set, or in both sets."""
    for name, prompts in (("positive", positive), ("negative", negative)):
        repeated = sum(count - 1 for count in Counter(prompts.ids).values())
        if repeated:
            warnings.warn(
                f"{repeated} of the {len(prompts.ids)} {name} prompts are duplicates, and count "
                "as often as they occur",
                CnaLensWarning,
                stacklevel=stacklevel + 1,
            )
    if both := set(positive.ids) & set(negative.ids):
        warnings.warn(
            f"{len(both)} prompts stand in both sets, and cancel out",
            CnaLensWarning,
            stacklevel=stacklevel + 1,
        )


def pad_token_id(model: HookedModel) -> int:
    """Give a token to pad with; since it is masked, 0 serves where the tokenizer has none."""
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(model.tokenizer, name, None)
        if isinstance(token, int) and 0 <= token < int(model.cfg.d_vocab):
            return token
    return 0
