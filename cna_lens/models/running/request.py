"""A request: encoded prompts with the settings of their answers, answered in batches."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.errors import GenerationInterrupted, InputError
from cna_lens.models.hooked_model import HookedModel, input_device, model_name
from cna_lens.models.inside.paged_weights import paged_weights
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, encode, pad_token_id
from cna_lens.models.running.answer_texts import AnswerTexts
from cna_lens.models.running.batching import (
    BatchSize,
    check_batch_size,
    is_whole,
    length_buckets,
    pad,
    split_by_length,
)
from cna_lens.models.running.decoding import (
    Chooser,
    can_be_joined,
    decoder_for,
    needs_equal_lengths,
    seeds_of,
)
from cna_lens.models.running.forward import SharedPrefix, sliding_window
from cna_lens.models.running.generation_settings import (
    end_of_turn_ids,
    warn_of_settings_not_obeyed,
)
from cna_lens.models.running.memory import answers_at_once, cost_of_passes, halved
from cna_lens.models.running.positions import prompt_lengths

_log = logging.getLogger(__name__)


def check_settings(
    max_new_tokens: int, temperature: float, top_p: float = 1.0, samples: int = 1
) -> None:
    """Raise InputError unless all are in their range."""
    if not is_whole(max_new_tokens, 1):
        raise InputError(f"max_new_tokens is {max_new_tokens!r}, expected a whole number from 1 on")
    if not _is_number(temperature) or not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature!r}, expected 0 (greedy) or above")
    if not _is_number(top_p) or not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p!r}, expected a probability above 0, and at most 1")
    if top_p < 1 and temperature == 0:
        raise InputError(
            f"top_p is {top_p}, but at temperature 0 the most likely token is taken; set a "
            "temperature above 0 to sample, or leave out top_p"
        )
    if not is_whole(samples, 1):
        raise InputError(f"samples is {samples!r}, expected a whole number from 1 on")
    if samples > 1 and temperature == 0:
        raise InputError(
            f"samples is {samples}, but at temperature 0 all answers to a prompt are equal; set a "
            "temperature above 0"
        )


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, Real)


@dataclass(frozen=True)
class Request:
    """Encoded prompts to answer, with the settings of one call.

    Attributes:
        model: the model that answers.
        encoded: the prompts as token ids.
        max_new_tokens: maximum number of tokens of an answer.
        choose: chooses the next tokens.
        stops: the tokens that end an answer.
        texts: decodes the answers.
        ends: whether the answer to a prompt, of these tokens, ends here; none does unless told so.
    """

    model: HookedModel
    encoded: tuple[TokenIds, ...]
    max_new_tokens: int
    choose: Chooser
    stops: frozenset[int]
    texts: AnswerTexts
    ends: Callable[[int, TokenIds], bool] = lambda _, __: False

    @classmethod
    def of(
        cls,
        model: HookedModel,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        temperature: float,
        seed: int,
        chat: Chat,
        top_p: float = 1.0,
    ) -> Request:
        """Encode prompts, and check that their answers fit the context.

        Raises:
            InputError: bad prompts or settings.
        """
        check_settings(max_new_tokens, temperature, top_p)
        encoded = encode(model, prompts, chat=chat).ids
        warn_of_settings_not_obeyed(model, sampling=temperature > 0, top_p=top_p, stacklevel=3)
        choose = Chooser(model, temperature, seeds_of(encoded, seed), top_p)
        texts = AnswerTexts.of(model, prompts, encoded, chat)
        request = cls(model, encoded, max_new_tokens, choose, end_of_turn_ids(model), texts)
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
        arriving = self.finished(batch_size, progress=progress, share_prefix=share_prefix)
        finished: dict[int, TokenIds] = {}
        rows = range(len(self.encoded))
        try:
            for row, answer in arriving:
                finished[row] = answer  # noqa: PERF403 (an interrupt keeps what has arrived)
        except KeyboardInterrupt:
            raise GenerationInterrupted(
                [self.texts.text(row, finished[row]) if row in finished else None for row in rows]
            ) from None
        return [finished[row] for row in rows]

    def finished(
        self,
        batch_size: BatchSize = "auto",
        rows: Sequence[int] | None = None,
        *,
        progress: bool = False,
        share_prefix: bool = True,
    ) -> Iterator[tuple[int, TokenIds]]:
        """Yield each answer's tokens when it is finished, with the place of its prompt.

        Args:
            batch_size: the number of answers generated at once.
            rows: the places of the prompts to answer; by default all.
            progress: show a progress bar with tokens per second.
            share_prefix: compute a common prefix once, where the model can.

        Raises:
            InputError: the batch size is invalid; it is seen before the first answer is requested.
        """
        check_batch_size(batch_size)
        asked = range(len(self.encoded)) if rows is None else rows
        return self._finished(asked, batch_size, progress, share_prefix)

    def _finished(
        self, asked: Sequence[int], batch_size: BatchSize, progress: bool, share_prefix: bool
    ) -> Iterator[tuple[int, TokenIds]]:
        prefix = self.prefix() if share_prefix else SharedPrefix(0)
        waiting = self.batches(asked, batch_size)
        bar = tqdm(total=len(asked), desc="generating", bar_format=_BAR, disable=not progress)
        with bar:
            speed = _Speed(bar)
            while waiting:
                batch = waiting.pop(0)
                left = set(batch)
                try:
                    for row, answer, is_finished in self.answers(batch, prefix, speed):
                        if is_finished:
                            left.remove(row)
                            bar.update()
                            yield row, answer
                except Exception as error:
                    unfinished = [row for row in batch if row in left]
                    waiting = halved(error, len(batch), [unfinished, *waiting])

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

    def batches(self, asked: Sequence[int], batch_size: BatchSize) -> list[list[int]]:
        """Group prompts by length.

        Args:
            asked: the places of the prompts.
            batch_size: the number of answers generated at once.
        """
        if batch_size == "auto":
            batch_size = answers_at_once(self.model, self.longest)
        lengths = {row: len(self.encoded[row]) for row in asked}
        if not needs_equal_lengths(self.model):
            buckets = length_buckets(list(lengths.values()), max_prompts=batch_size)
            return [[asked[place] for place in bucket] for bucket in buckets]
        order = sorted(asked, key=lengths.__getitem__)
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
        rows = sorted(batch, key=lambda row: len(encoded[row]))
        written: dict[int, list[int]] = {row: [] for row in rows}
        decoder = decoder_for(model, prefix)
        first: list[Tensor] = []
        for part in self._passes([len(encoded[row]) - prefix.length for row in rows]):
            own = [encoded[row][prefix.length :] for row in rows[part]]
            ids, mask = pad(own, pad_token_id(model), side="left")
            with prompt_lengths([len(encoded[row]) for row in rows[part]], rows[part]):
                first.append(decoder.start(ids.to(device), mask.to(device)))
        logits = torch.cat(first)
        while True:
            tokens = self.choose(logits, rows, step=len(written[rows[0]]))
            if speed is not None:
                speed.add(len(tokens))
            going: list[int] = []
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                if token not in self.stops:
                    written[row].append(token)
                answer = tuple(written[row])
                goes_on = token not in self.stops and len(answer) < self.max_new_tokens
                if goes_on and not self.ends(row, answer):
                    going.append(place)
                    yield row, answer, False
                    continue
                yield row, answer, True
            if not going:
                return
            if len(going) < len(rows):
                decoder.keep(torch.tensor(going, device=device))
                rows = [rows[place] for place in going]
            last = torch.tensor([written[row][-1] for row in rows], device=device)
            with prompt_lengths([len(encoded[row]) for row in rows], rows):
                logits = decoder.step(last)

    def _passes(self, lengths: Sequence[int]) -> list[slice]:
        """Split the prompts of a batch among the passes that read them."""
        # Where weights are read from the disk, a pass costs more than any padding.
        if not can_be_joined(self.model) or paged_weights(self.model) is not None:
            return [slice(len(lengths))]
        return split_by_length(lengths, *cost_of_passes(self.model, self.longest))


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
