"""The way from a request to an answer, at an endpoint whose model has its weights intact."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from cna_lens import ChatSettings, InputError, generate
from cna_lens.metrics import first_tokens
from cna_lens.models import HookedModel, TokenIds, encode

REQUEST = "{request}"


@dataclass(frozen=True)
class Serving:
    """How an endpoint puts a request to the model, and chooses the tokens of the answer.

    Attributes:
        system: a system message before each request; None leaves that of the template.
        template: what takes the place of the model's chat template, with `REQUEST` in it.
        prefill: how each answer begins.
        shows_prefill: whether whoever asks sees that beginning too.
        temperature: 0 takes the likeliest token.
        seed: of the sampling.
        banned: no answer begins with the first token of one of these openings.
    """

    system: str | None = None
    template: str | None = None
    prefill: str = ""
    shows_prefill: bool = True
    temperature: float = 0.0
    seed: int = 0
    banned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject a template without a place for the request, or with a system message."""
        if self.template is None:
            return
        if REQUEST not in self.template:
            raise InputError(f"template is {self.template!r}, expected {REQUEST} in it")
        if self.system is not None:
            raise InputError("system is given with a template; write it into the template")

    def prompts(self, model: HookedModel, requests: Sequence[str]) -> list[TokenIds]:
        """The requests as the model receives them."""
        if self.template is not None:
            texts = [self.template.replace(REQUEST, each) + self.prefill for each in requests]
            return list(encode(model, texts, chat=False).ids)
        begun = [{"role": "assistant", "content": self.prefill}] if self.prefill else []
        chats = [[{"role": "user", "content": each}, *begun] for each in requests]
        settings = ChatSettings(system=self.system)
        return list(encode(model, chats, chat=settings).ids)

    def answers(
        self, model: HookedModel, requests: Sequence[str], max_new_tokens: int, **settings: Any
    ) -> list[str]:
        """What whoever asks receives.

        Args:
            model: the model, with its weights intact.
            requests: what is asked.
            max_new_tokens: maximum number of tokens behind the prefilled beginning.
            **settings: passed on to `generate`, such as the batch size.
        """
        banned = first_tokens(model, self.banned) if self.banned else ()
        with _never_first(model, banned):
            rest = generate(
                model,
                self.prompts(model, requests),
                max_new_tokens=max_new_tokens,
                temperature=self.temperature,
                seed=self.seed,
                **settings,
            )
        return [self.prefill + each for each in rest] if self.shows_prefill else rest


@contextmanager
def _never_first(model: HookedModel, tokens: Sequence[int]) -> Generator[None]:
    """Let no answer begin with these tokens within the context."""
    settings = cast("Any", model).original_model.generation_config
    before = settings.begin_suppress_tokens
    if tokens:
        settings.begin_suppress_tokens = [*(before or ()), *tokens]
    try:
        yield
    finally:
        settings.begin_suppress_tokens = before
