"""Generate answers in batches, equal to those of one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, check_model
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.batching import BatchSize, is_whole
from cna_lens.models.running.forward import SharedPrefix
from cna_lens.models.running.request import Request


def generate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
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
    random generator, except where a draw lies within rounding of the border between two tokens;
    repeated prompts get different samples.

    The text has no special tokens, except those that mark reasoning (`REASONING_FORMATS`). Where
    the prompt ends inside reasoning, as some chat templates have it, the text begins with the
    marker that the prompt ends with. So `metrics.without_reasoning` always finds the answer.

    Of the model's generation config, the end tokens, `suppress_tokens` and `begin_suppress_tokens`
    are obeyed, as by Hugging Face's `generate`. Sampling is from all other tokens, or with `top_p`
    from the likeliest of them (arXiv 1904.09751).

    >>> generate(tiny_model, ["Hello."], max_new_tokens=2, chat=False) == generate(
    ...     tiny_model, ["Hello.", "A longer one."], max_new_tokens=2, chat=False
    ... )[:1]
    True

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids; see `cna_lens.models.encode`.
        max_new_tokens: maximum number of tokens of an answer.
        temperature: 0 takes the most likely token, above 0 samples.
        top_p: sample from the fewest tokens that have this probability together.
        seed: the seed for sampling; unused at temperature 0.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: the number of answers generated at once; "auto" fits them to the free memory.
        progress: show a progress bar with tokens per second.
        share_prefix: compute a common prefix once, where the model can.

    Raises:
        InputError: bad prompts or settings, or the model has no tokenizer.
        ModelError: logits are not a number or infinite, so that no token can be chosen.
        GenerationInterrupted: a KeyboardInterrupt that carries the answers finished so far.

    Warns:
        CnaLensWarning: once for a model, if its generation config has other settings that Hugging
            Face's `generate` would obey, such as `repetition_penalty`.
    """
    check_model(model)
    request = Request.of(model, prompts, max_new_tokens, temperature, seed, chat, top_p)
    request.texts.check_tokenizer()
    answers = request.tokens(batch_size, progress=progress, share_prefix=share_prefix)
    return [request.texts.text(row, answer) for row, answer in enumerate(answers)]


def finished_answers(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    places: Sequence[int] | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Iterator[tuple[int, str]]:
    """Yield the answers of `generate` as they are finished, each with the place of its prompt.

    Invalid settings raise at once, before the first answer is requested.

    >>> prompts = ["w5 w6", "w7"]
    >>> options = {"max_new_tokens": 2, "chat": False}
    >>> second = dict(finished_answers(tiny_model, prompts, places=[1], **options))
    >>> second == {1: generate(tiny_model, prompts, **options)[1]}
    True

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: all prompts; what a repeated prompt samples depends on those before it.
        places: the places of the prompts to answer; by default all.
        max_new_tokens: as for `generate`, like all that follow.
        temperature: as for `generate`.
        top_p: as for `generate`.
        seed: as for `generate`.
        chat: as for `generate`.
        batch_size: as for `generate`.
        progress: as for `generate`.

    Raises:
        InputError: bad prompts, settings or places.
        ModelError: as for `generate`.
    """
    check_model(model)
    request = Request.of(model, prompts, max_new_tokens, temperature, seed, chat, top_p)
    request.texts.check_tokenizer()
    if places is not None:
        _check_places(places, len(request.encoded))
    arriving = request.finished(batch_size, places, progress=progress)
    return ((place, request.texts.text(place, answer)) for place, answer in arriving)


def _check_places(places: Sequence[int], n_prompts: int) -> None:
    if wrong := [place for place in places if not is_whole(place) or place not in range(n_prompts)]:
        raise InputError(
            f"places holds {wrong[0]!r}, expected places of the prompts, 0 to {n_prompts - 1}"
        )
    if len(set(places)) < len(places):
        raise InputError(f"places is {places!r}, expected each place once")


def stream(
    model: HookedModel,
    prompt: Prompt,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
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
        top_p: sample from the fewest tokens that have this probability together.
        seed: the seed for sampling; unused at temperature 0.
        chat: put a string into the chat template; "auto" where the tokenizer has one.

    Raises:
        InputError: a bad prompt or settings, or the model has no tokenizer.
        ModelError: logits are not a number or infinite, so that no token can be chosen.

    Warns:
        CnaLensWarning: as for `generate`.
    """
    check_model(model)
    request = Request.of(model, [prompt], max_new_tokens, temperature, seed, chat, top_p)
    request.texts.check_tokenizer()

    def texts() -> Iterator[str]:
        for _, answer, is_finished in request.answers([0], SharedPrefix(0)):
            text = request.texts.text(0, answer)
            yield text if is_finished else text.rstrip("\N{REPLACEMENT CHARACTER}")

    return texts()
