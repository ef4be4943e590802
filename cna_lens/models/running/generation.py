"""Generate answers in batches, equal to those of one prompt at a time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from tqdm.auto import tqdm

from cna_lens.errors import GenerationInterrupted, InputError
from cna_lens.models.hooked_model import HookedModel, check_model, input_device, model_name
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, encode, pad_token_id
from cna_lens.models.running.batching import BatchSize, check_batch_size, length_buckets, pad
from cna_lens.models.running.decoding import Chooser, decoder_for, needs_equal_lengths, seeds_of
from cna_lens.models.running.forward import SharedPrefix, sliding_window
from cna_lens.models.running.generation_settings import (
    generation_config,
    warn_of_settings_not_obeyed,
)
from cna_lens.models.running.memory import answers_at_once, halved
from cna_lens.models.running.positions import prompt_lengths

_log = logging.getLogger(__name__)


def generate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
    share_prefix: bool = True,
) -> list[str]:
    """Answer prompts and return the answers in the same order.

    Within `steer`, the steered model answers. Prompts of similar length run in left-padded batches,
    with their masks and a KV cache. A common prefix is computed once, and finished answers leave
    the batch. An answer ends before its first end-of-turn token. In float32, each answer is the
    same as if its prompt had run alone. This holds for sampling too, since each prompt has its own
    random generator; repeated prompts get different samples.

    Of the model's generation config, the end tokens, `suppress_tokens` and `begin_suppress_tokens`
    are obeyed, as by Hugging Face's `generate`. Sampling is from all other tokens.

    >>> generate(tiny_model, ["Hello."], max_new_tokens=2, chat=False) == generate(
    ...     tiny_model, ["Hello.", "A longer one."], max_new_tokens=2, chat=False
    ... )[:1]
    True

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids; see `cna_lens.models.encode`.
        max_new_tokens: maximum number of tokens of an answer.
        temperature: 0 takes the most likely token, above 0 samples.
        seed: the seed for sampling; unused at temperature 0.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: the number of answers generated at once; "auto" fits them to the free memory.
        progress: show a progress bar with tokens per second.
        share_prefix: compute a common prefix once, where the model can.

    Raises:
        InputError: bad prompts or settings.
        ModelError: logits are not a number or infinite, so that no token can be chosen.
        GenerationInterrupted: a KeyboardInterrupt that carries the answers finished so far.

    Warns:
        CnaLensWarning: once for a model, if its generation config has other settings that Hugging
            Face's `generate` would obey, such as `repetition_penalty`.
    """
    check_model(model)
    request = Request.of(model, prompts, max_new_tokens, temperature, seed, chat)
    answers = request.tokens(batch_size, progress=progress, share_prefix=share_prefix)
    return [answer_text(model, answer) for answer in answers]


def stream(
    model: HookedModel,
    prompt: Prompt,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    chat: Chat = "auto",
) -> Iterator[str]:
    """Yield the full answer so far after each token; the last text is the answer of `generate`.

    A character is held back until all of its bytes are generated. Invalid settings raise at once,
    before the first text is requested.

    >>> *_, answer = stream(tiny_model, "w5 w6", max_new_tokens=4, chat=False)
    >>> [answer] == generate(tiny_model, ["w5 w6"], max_new_tokens=4, chat=False)
    True

    Args:
        model: a TransformerBridge or HookedTransformer; each text uses the steering that is active
            when it is requested.
        prompt: a string, a list of chat messages, or token ids.
        max_new_tokens: maximum number of tokens of an answer.
        temperature: 0 takes the most likely token, above 0 samples.
        seed: the seed for sampling; unused at temperature 0.
        chat: put a string into the chat template; "auto" where the tokenizer has one.

    Raises:
        InputError: a bad prompt or settings.
        ModelError: logits are not a number or infinite, so that no token can be chosen.

    Warns:
        CnaLensWarning: as for `generate`.
    """
    check_model(model)
    request = Request.of(model, [prompt], max_new_tokens, temperature, seed, chat)

    def texts() -> Iterator[str]:
        for _, answer, is_finished in request.answers([0], SharedPrefix(0)):
            text = answer_text(model, answer)
            yield text if is_finished else text.rstrip("\N{REPLACEMENT CHARACTER}")

    return texts()


def check_settings(max_new_tokens: int, temperature: float) -> None:
    """Raise InputError unless both are in their range."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}, expected 0 (greedy) or above")


@dataclass(frozen=True)
class Request:
    """Encoded prompts to answer, with the settings of one call.

    Attributes:
        model: the model that answers.
        encoded: the prompts as token ids.
        max_new_tokens: maximum number of tokens of an answer.
        choose: chooses the next tokens.
        stops: the tokens that end an answer.
    """

    model: HookedModel
    encoded: tuple[TokenIds, ...]
    max_new_tokens: int
    choose: Chooser
    stops: frozenset[int]

    @classmethod
    def of(
        cls,
        model: HookedModel,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        chat: Chat,
    ) -> Request:
        """Encode prompts, and check that their answers fit the context.

        Raises:
            InputError: bad prompts or settings.
        """
        check_settings(max_new_tokens, temperature)
        encoded = encode(model, prompts, chat=chat).ids
        warn_of_settings_not_obeyed(model, sampling=temperature > 0, stacklevel=3)
        choose = Chooser(model, temperature, seeds_of(encoded, seed))
        request = cls(model, encoded, max_new_tokens, choose, end_of_turn_ids(model))
        context = getattr(model.cfg, "n_ctx", None)
        if context and request.longest > context:
            raise InputError(
                f"the longest prompt has {request.longest - max_new_tokens} tokens and its answer "
                f"up to {max_new_tokens}; the model's context holds {context}; lower "
                "max_new_tokens, or shorten the prompt"
            )
        return request

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with its answer."""
        return max(map(len, self.encoded)) + self.max_new_tokens

    def tokens(
        self,
        batch_size: BatchSize = "auto",
        *,
        progress: bool = False,
        share_prefix: bool = True,
    ) -> list[TokenIds]:
        """Answer all prompts in batches, and return the tokens of each answer.

        Raises:
            InputError: the batch size is invalid.
            GenerationInterrupted: as for `generate`.
        """
        check_batch_size(batch_size)
        prefix = self.prefix() if share_prefix else SharedPrefix(0)
        waiting = self.batches(batch_size)
        n = len(self.encoded)
        finished: dict[int, TokenIds] = {}
        with tqdm(total=n, desc="generating", bar_format=_BAR, disable=not progress) as bar:
            speed = _Speed(bar)
            try:
                while waiting:
                    batch = waiting.pop(0)
                    try:
                        for row, answer, is_finished in self.answers(batch, prefix, speed):
                            if is_finished:
                                finished[row] = answer
                                bar.update()
                    except Exception as error:
                        left = [row for row in batch if row not in finished]
                        waiting = halved(error, len(batch), [left, *waiting])
            except KeyboardInterrupt:
                raise GenerationInterrupted(
                    [
                        answer_text(self.model, finished[row]) if row in finished else None
                        for row in range(n)
                    ]
                ) from None
        return [finished[row] for row in range(n)]

    def prefix(self) -> SharedPrefix:
        """Compute what all prompts begin with, where the model can continue from it."""
        # Padding between prefix and prompt fills places of a sliding window, so a row would see
        # less of its past than alone.
        window = sliding_window(self.model)
        if window is None or window >= self.longest:
            return SharedPrefix.of(self.model, self.encoded)
        _log.info(
            "%s: no prefix is shared, since its window of %d is shorter than %d tokens",
            model_name(self.model),
            window,
            self.longest,
        )
        return SharedPrefix(0)

    def batches(self, batch_size: BatchSize) -> list[list[int]]:
        """Group the prompts by length."""
        if batch_size == "auto":
            batch_size = answers_at_once(self.model, self.longest)
        lengths = [len(ids) for ids in self.encoded]
        if not needs_equal_lengths(self.model):
            return length_buckets(lengths, max_prompts=batch_size)
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        of_length = [list(rows) for _, rows in groupby(order, key=lengths.__getitem__)]
        return [
            rows[start : start + batch_size]
            for rows in of_length
            for start in range(0, len(rows), batch_size)
        ]

    @torch.no_grad()
    def answers(
        self, batch: Sequence[int], prefix: SharedPrefix, speed: _Speed | None = None
    ) -> Iterator[tuple[int, TokenIds, bool]]:
        """Yield each answer of a batch after each token, and whether it is finished.

        Finished answers leave the batch.
        """
        model, encoded = self.model, self.encoded
        device = input_device(model)
        ids, mask = pad(
            [encoded[row][prefix.length :] for row in batch], pad_token_id(model), side="left"
        )
        rows = list(batch)
        written: dict[int, list[int]] = {row: [] for row in rows}
        decoder = decoder_for(model, prefix)
        with prompt_lengths([len(encoded[row]) for row in rows], rows):
            logits = decoder.start(ids.to(device), mask.to(device))
        while True:
            tokens = self.choose(logits, rows, step=len(written[rows[0]]))
            if speed is not None:
                speed.add(len(tokens))
            going: list[int] = []
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                if token not in self.stops:
                    written[row].append(token)
                    if len(written[row]) < self.max_new_tokens:
                        going.append(place)
                        yield row, tuple(written[row]), False
                        continue
                yield row, tuple(written[row]), True
            if not going:
                return
            if len(going) < len(rows):
                decoder.keep(torch.tensor(going, device=device))
                rows = [rows[place] for place in going]
            last = torch.tensor([written[row][-1] for row in rows], device=device)
            with prompt_lengths([len(encoded[row]) for row in rows], rows):
                logits = decoder.step(last)


def end_of_turn_ids(model: HookedModel) -> frozenset[int]:
    """Collect the tokens that end an answer: of the tokenizer, the model and the chat template."""
    tokenizer = model.tokenizer
    settings = generation_config(model)
    found: set[int] = set()
    for ids in (
        getattr(tokenizer, "eos_token_id", None),
        getattr(settings, "eos_token_id", None),
    ):
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return frozenset(found | _template_end(tokenizer))


def _template_end(tokenizer: Any) -> set[int]:
    """Find the special token that the chat template puts right after an answer."""
    if getattr(tokenizer, "chat_template", None) is None:
        return set()
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}],
        tokenize=False,
    )
    behind = text[text.rindex("answer") + len("answer") :]
    ids: list[int] = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return {token for token in ids[:1] if token in tokenizer.all_special_ids}


def answer_text(model: HookedModel, answer: TokenIds) -> str:
    """Decode an answer without its special tokens; InputError if there is no tokenizer."""
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer to decode its answers; set model.tokenizer")
    return str(model.tokenizer.decode(list(answer), skip_special_tokens=True))


# Answers of a batch tend to end together, so a rate in answers would jump.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} answers [{elapsed}{postfix}]"


class _Speed:
    """Shows tokens per second beside the bar of finished answers."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar
        self.started = time.perf_counter()
        self.tokens = 0

    def add(self, tokens: int) -> None:
        self.tokens += tokens
        seconds = time.perf_counter() - self.started
        self.bar.set_postfix_str(f"{self.tokens / seconds:.0f} tokens/s", refresh=False)
        self.bar.update(0)
