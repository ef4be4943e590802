"""Prompts with the model's own reasoning behind them, up to where its answer begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.prompts.encoding import Chat, EncodedPrompts, Prompt, TokenIds, encode
from cna_lens.models.prompts.reasoning_formats import TAIL, answer_start, closes, may_open
from cna_lens.models.running.answer_texts import AnswerTexts
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.request import Request

MAX_REASONING_TOKENS: Final = 1024
"""The longest reasoning in tokens, unless `with_reasoning` is told otherwise."""


def with_reasoning(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = MAX_REASONING_TOKENS,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> list[TokenIds]:
    """Let the model reason about prompts, and return prompts that end where its answers begin.

        reasoned = with_reasoning(model, prompts)
        refusal_log_odds(model, reasoned)
        generate(model, reasoned)

    A model that reasons decides about its answer in its reasoning. At the last token of a prompt,
    its next token is the marker that opens the reasoning, whatever is asked. Behind the reasoning,
    the next token is the answer's first. So what works on prompts works there: activations at the
    last token, log-odds, rankings, `metrics.kl_per_token`, and steering at "last_prompt",
    "from_last_prompt" and "generated". `position="answer"` of `find_circuit`, `collect` and others
    calls this with its defaults.

    The reasoning is greedy, and that of the model as it is steered when this is called: outside of
    `steer`, the unsteered model's. White space behind the closing marker belongs to the prompt. A
    prompt that the model answers without reasoning stays as it is.

    Cost: the reasoning of each prompt is generated once, with a KV cache; then each forward pass
    reads prompt and reasoning.

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids.
        max_new_tokens: the longest reasoning, markers included; less where the context ends.
        chat: put strings into the chat template; `ChatSettings` can also name markers of reasoning
            that are not among `REASONING_FORMATS`.
        batch_size: the number of prompts that are reasoned about at once.
        progress: show a progress bar with tokens per second.

    Returns:
        The token ids of each prompt and its reasoning.

    Raises:
        InputError: a prompt cannot be used, its reasoning does not end, or there is no reasoning
            about any prompt.
        ModelError: logits are not a number or infinite, so that no token can be chosen.
        GenerationInterrupted: a KeyboardInterrupt while the model reasoned.
    """
    check_model(model)
    encoded = encode(model, prompts, chat=chat)
    (reasoned,) = behind_reasoning(
        model,
        {"prompts": (prompts, encoded)},
        chat,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    return list(reasoned.ids)


def behind_reasoning(
    model: HookedModel,
    sets: Mapping[str, tuple[Sequence[Prompt], EncodedPrompts]],
    chat: Chat,
    *,
    max_new_tokens: int = MAX_REASONING_TOKENS,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> list[EncodedPrompts]:
    """Do what `with_reasoning` does for several sets, given as prompts and as token ids.

    Args:
        model: a TransformerBridge or HookedTransformer.
        sets: the prompts of each set by its name in errors.
        chat: how they were encoded.
        max_new_tokens: the longest reasoning.
        batch_size: the number of prompts that are reasoned about at once.
        progress: show a progress bar.

    Raises:
        InputError: the reasoning about a prompt does not end, or there is none about any prompt.
    """
    if model.tokenizer is None:
        raise InputError(
            "the model has no tokenizer, by which its reasoning is found; set model.tokenizer"
        )
    names = [f"{name}[{n}]" for name, (_, each) in sets.items() for n in range(len(each.ids))]
    prompts = [prompt for given, _ in sets.values() for prompt in given]
    ids = [prompt for _, encoded in sets.values() for prompt in encoded.ids]
    context, longest = getattr(model.cfg, "n_ctx", None), max(map(len, ids))
    advice = "raise max_new_tokens of with_reasoning, or leave the prompt out"
    if context and context - longest < max_new_tokens:
        max_new_tokens = max(1, context - longest)
        advice = (
            f"the context of {context} tokens holds no more behind the longest prompt, of "
            f"{longest}; leave out that prompt, or this one"
        )
    search = _Search(AnswerTexts.of(model, prompts, ids, chat))
    request = Request.of(model, ids, max_new_tokens, 0.0, 0, chat=False)
    request = replace(request, ends=search.has_begun)
    written = request.tokens(batch_size, progress=progress)
    lengths = [
        search.length(row, answer, names[row], max_new_tokens, advice)
        for row, answer in enumerate(written)
    ]
    if not any(lengths) and not any(search.texts.opened):
        raise InputError(
            f"{model_name(model)} does not reason about any of the {len(ids)} prompts, or between "
            "unknown markers; read the prompts as they are (position=-1), or name the markers: "
            "chat=ChatSettings(reasoning=[ReasoningFormat(opening, closing)])"
        )
    reasoned = (
        (*prompt, *answer[:length])
        for prompt, answer, length in zip(ids, written, lengths, strict=True)
    )
    return [encoded.with_ids([next(reasoned) for _ in encoded.ids]) for _, encoded in sets.values()]


class _Search:
    """Finds the first token of each answer, behind the reasoning."""

    def __init__(self, texts: AnswerTexts) -> None:
        self.texts = texts
        # Prompts about which the model was reasoning when their whole text was last looked at.
        self.reasoning: set[int] = set()

    def has_begun(self, row: int, answer: TokenIds) -> bool:
        """Whether the answer has begun with the last of these tokens."""
        if row in self.reasoning and not closes(self._tail(answer), self.texts.own):
            return False
        start, behind = self._split(row, answer)
        if start is None:
            self.reasoning.add(row)
            return False
        self.reasoning.discard(row)
        return self._is_answer(behind)

    def length(self, row: int, answer: TokenIds, name: str, at_most: int, advice: str) -> int:
        """Number of tokens of the reasoning, with the white space behind it.

        Raises:
            InputError: the reasoning has not ended.
        """
        start, behind = self._split(row, answer)
        if len(answer) >= at_most and not self._is_answer(behind):
            raise InputError(
                f"the reasoning about {name} does not end within {at_most} tokens; {advice}"
            )
        if start is None:
            raise InputError(
                f"the model ends its turn inside its reasoning about {name}; leave the prompt out"
            )
        if start == 0:
            return 0
        n = len(answer)
        while n and self.texts.text(row, answer[:n])[start:].strip():
            n -= 1
        return n

    def _split(self, row: int, answer: TokenIds) -> tuple[int | None, str]:
        """Find where the answer's text begins, None inside reasoning, and give that text."""
        text = self.texts.text(row, answer)
        start = answer_start(text, self.texts.own)
        return start, "" if start is None else text[start:]

    def _is_answer(self, behind: str) -> bool:
        """Whether a text behind reasoning, or without any, is an answer and opens none."""
        return bool(behind.strip()) and not may_open(behind, self.texts.own)

    def _tail(self, answer: TokenIds) -> str:
        return replace(self.texts, opened=("",)).text(0, answer[-TAIL:])
