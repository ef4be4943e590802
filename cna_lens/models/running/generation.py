"""Generate answers in batches, equal to those of one prompt at a time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from cna_lens.errors import GenerationInterrupted, InputError
from cna_lens.models.hooked_model import HookedModel, check_model, input_device, model_name
from cna_lens.models.prompts.encoding import Chat, Prompt, TokenIds, encode, pad_token_id
from cna_lens.models.running.batching import BatchSize, check_batch_size, length_buckets, pad
from cna_lens.models.running.decoding import Chooser, decoder_for, needs_equal_lengths, seeds_of
from cna_lens.models.running.forward import SharedPrefix, sliding_window
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
    """Answer prompts, in their order; inside `steer`, with the steered model.

    Prompts of similar length run in left-padded batches, with their masks and a KV cache. A common
    prefix is computed once, and finished answers leave the batch. An answer ends before its first
    end-of-turn token. In float32 the answers equal those of one prompt at a time. This holds for
    sampling too, since each prompt has its own random generator; repeated prompts get different
    samples.

    >>> generate(tiny_model, ["Hello."], max_new_tokens=2, chat=False) == generate(
    ...     tiny_model, ["Hello.", "A longer one."], max_new_tokens=2, chat=False
    ... )[:1]
    True

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids; see `cna_lens.models.encode`.
        max_new_tokens: maximum number of tokens of an answer.
        temperature: 0 takes the most likely token, above 0 samples.
        seed: for sampling.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: answers at once; "auto" fits them to the free memory.
        progress: show a progress bar with tokens per second.
        share_prefix: compute a common prefix once, where the model can.

    Raises:
        InputError: bad prompts or settings.
        GenerationInterrupted: a KeyboardInterrupt that carries the answers finished so far.
    """
    check_model(model)
    check_batch_size(batch_size)
    check_settings(max_new_tokens, temperature)
    encoded = encode(model, prompts, chat=chat).ids
    _check_context(model, encoded, max_new_tokens)
    prefix = _prefix(model, encoded, max_new_tokens) if share_prefix else SharedPrefix(0)
    choose = Chooser(temperature, seeds_of(encoded, seed))
    stops = end_of_turn_ids(model)
    waiting = _batches(model, encoded, max_new_tokens, batch_size)
    finished: list[str | None] = [None] * len(encoded)
    with tqdm(total=len(encoded), desc="generating", bar_format=_BAR, disable=not progress) as bar:
        speed = _Speed(bar)
        try:
            while waiting:
                batch = waiting.pop(0)
                try:
                    for row, answer, is_finished in _answers(
                        model, encoded, batch, prefix, choose, stops, max_new_tokens, speed
                    ):
                        if is_finished:
                            finished[row] = _text(model, answer)
                            bar.update()
                except Exception as error:
                    left = [row for row in batch if finished[row] is None]
                    waiting = halved(error, len(batch), [left, *waiting])
        except KeyboardInterrupt:
            raise GenerationInterrupted(finished) from None
    return [text for text in finished if text is not None]


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
        seed: for sampling.
        chat: put a string into the chat template; "auto" where the tokenizer has one.

    Raises:
        InputError: a bad prompt or settings.
    """
    check_model(model)
    check_settings(max_new_tokens, temperature)
    encoded = encode(model, [prompt], chat=chat).ids
    _check_context(model, encoded, max_new_tokens)
    choose = Chooser(temperature, seeds_of(encoded, seed))
    stops = end_of_turn_ids(model)

    def texts() -> Iterator[str]:
        for _, answer, is_finished in _answers(
            model, encoded, [0], SharedPrefix(0), choose, stops, max_new_tokens
        ):
            text = _text(model, answer)
            yield text if is_finished else text.rstrip("\N{REPLACEMENT CHARACTER}")

    return texts()


def check_settings(max_new_tokens: int, temperature: float) -> None:
    """Raise InputError unless both are in their range."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}, expected at least 1")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature is {temperature}, expected 0 (greedy) or above")


def _check_context(model: HookedModel, encoded: Sequence[TokenIds], max_new_tokens: int) -> None:
    context = getattr(model.cfg, "n_ctx", None)
    longest = max(map(len, encoded))
    if context and longest + max_new_tokens > context:
        raise InputError(
            f"the longest prompt has {longest} tokens and its answer up to {max_new_tokens}; the "
            f"model's context holds {context}; lower max_new_tokens, or shorten the prompt"
        )


def _prefix(model: HookedModel, encoded: Sequence[TokenIds], max_new_tokens: int) -> SharedPrefix:
    # Padding between prefix and prompt fills places of a sliding window, so a row would see less of
    # its past than alone.
    window = sliding_window(model)
    longest = max(map(len, encoded)) + max_new_tokens
    if window is not None and window < longest:
        _log.info(
            "%s: no prefix is shared, since its window of %d is shorter than %d tokens",
            model_name(model),
            window,
            longest,
        )
        return SharedPrefix(0)
    return SharedPrefix.of(model, encoded)


def _batches(
    model: HookedModel,
    encoded: Sequence[TokenIds],
    max_new_tokens: int,
    batch_size: BatchSize,
) -> list[list[int]]:
    lengths = [len(ids) for ids in encoded]
    if batch_size == "auto":
        batch_size = answers_at_once(model, max(lengths) + max_new_tokens)
    if not needs_equal_lengths(model):
        return length_buckets(lengths, max_prompts=batch_size)
    rows_of_length: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        rows_of_length.setdefault(length, []).append(row)
    return [
        rows[start : start + batch_size]
        for _, rows in sorted(rows_of_length.items())
        for start in range(0, len(rows), batch_size)
    ]


@torch.no_grad()
def _answers(
    model: HookedModel,
    encoded: Sequence[TokenIds],
    batch: Sequence[int],
    prefix: SharedPrefix,
    choose: Chooser,
    stops: frozenset[int],
    max_new_tokens: int,
    speed: _Speed | None = None,
) -> Iterator[tuple[int, TokenIds, bool]]:
    """Yield each answer of a batch after each token, and whether it is finished.

    Finished answers leave the batch.
    """
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
        tokens = choose(logits, rows, step=len(written[rows[0]]))
        if speed is not None:
            speed.add(len(tokens))
        going: list[int] = []
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if token not in stops:
                written[row].append(token)
                if len(written[row]) < max_new_tokens:
                    going.append(place)
                    yield row, tuple(written[row]), False
                    continue
            yield row, tuple(written[row]), True
        if not going:
            return
        if len(going) < len(rows):
            decoder.keep(torch.tensor(going, device=device))
            rows = [rows[place] for place in going]
        with prompt_lengths([len(encoded[row]) for row in rows], rows):
            logits = decoder.step(torch.tensor([written[row][-1] for row in rows], device=device))


def end_of_turn_ids(model: HookedModel) -> frozenset[int]:
    """Collect the tokens that end an answer: of the tokenizer, the model and the chat template."""
    tokenizer = model.tokenizer
    settings = getattr(getattr(model, "original_model", None), "generation_config", None)
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


def _text(model: HookedModel, answer: TokenIds) -> str:
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
