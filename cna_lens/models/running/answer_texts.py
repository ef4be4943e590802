"""Answers as text in which one can see where the model reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.chats import text_of
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, as_messages, chat_settings
from cna_lens.models.prompts.reasoning_formats import (
    TAIL,
    ReasoningFormat,
    marked_text,
    opening_at_end,
    opening_left,
    special_markers,
)


@dataclass(frozen=True)
class AnswerTexts:
    """Decodes the answers to some prompts, with the markers of reasoning.

    A tokenizer leaves special tokens out of text. Those that mark reasoning are kept, and where a
    prompt ends inside reasoning (some chat templates open it), the text begins with that marker.

    Attributes:
        model: gives the tokenizer.
        own: formats of reasoning beside `REASONING_FORMATS`.
        special: the special tokens of markers, with their texts.
        opened: the marker of reasoning that each prompt leaves open, "" where there is none.
    """

    model: HookedModel
    own: Sequence[ReasoningFormat]
    special: Mapping[int, str]
    opened: tuple[str, ...]

    @classmethod
    def of(
        cls, model: HookedModel, prompts: Sequence[Prompt], encoded: Sequence[TokenIds], chat: Chat
    ) -> AnswerTexts:
        """Look at what the prompts leave open.

        Args:
            model: gives the tokenizer.
            prompts: strings, lists of chat messages, or token ids.
            encoded: the prompts as token ids.
            chat: how they were encoded.
        """
        own = chat_settings(chat).reasoning
        if model.tokenizer is None:
            return cls(model, own, {}, ("",) * len(encoded))
        special = special_markers(model.tokenizer, own)

        def opened(prompt: Prompt, ids: TokenIds) -> str:
            messages = as_messages(prompt)
            if messages and messages[-1]["role"] == "assistant":
                return opening_left(text_of(messages[-1]["content"]), own)
            return opening_at_end(marked_text(model.tokenizer, ids[-TAIL:], special), own)

        return cls(model, own, special, tuple(map(opened, prompts, encoded)))

    def check_tokenizer(self) -> None:
        """Raise InputError unless there is a tokenizer to decode answers."""
        if self.model.tokenizer is None:
            raise InputError(
                "the model has no tokenizer to decode its answers; set model.tokenizer"
            )

    def text(self, row: int, answer: TokenIds) -> str:
        """Decode the answer to a prompt.

        Raises:
            InputError: there is no tokenizer.
        """
        self.check_tokenizer()
        return self.opened[row] + marked_text(self.model.tokenizer, answer, self.special)
