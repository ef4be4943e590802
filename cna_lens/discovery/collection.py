"""Collect: run prompts, and read each MLP neuron's activation at one token of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from cna_lens.discovery.activations.means import ActivationStats, RunningMoments
from cna_lens.discovery.activations.per_prompt import KeptActivations, PromptActivations
from cna_lens.discovery.activations.reader import Reader
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.reasoning import behind_reasoning
from cna_lens.results.provenance import Position


@overload
def collect(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    keep: Literal["stats"] = "stats",
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
    share_prefix: bool = True,
) -> ActivationStats: ...
@overload
def collect(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    keep: Literal["all"],
    folder: str | Path | None = None,
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
    share_prefix: bool = True,
) -> PromptActivations: ...
def collect(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    keep: Literal["stats", "all"] = "stats",
    folder: str | Path | None = None,
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
    share_prefix: bool = True,
) -> ActivationStats | PromptActivations:
    """Read every MLP neuron's activation at one token of each prompt.

    Return each neuron's mean and variance over the prompts, or all values with `keep="all"`. A
    neuron's activation is its entry in the input of the down projection, after the product with the
    gate (arXiv 2605.12290, method, step 2). By default it is read at each prompt's last token.

    >>> stats = collect(tiny_model, ["Hello.", "A longer one."], chat=False)
    >>> stats.count, stats.layout
    (2, Layout(widths=(24, 24)))

    Tokens with which all prompts begin, such as those of a chat template, are computed once.
    Prompts that share further tokens after this common beginning (such as "How do I") are packed
    into one row where `batch_size` allows it; those tokens too are computed once. Rows of similar
    length run in one right-padded batch. None of this changes the result beyond float rounding.

    In a layer with experts, an activation counts as much as it adds to the output: the gated
    activation times the expert's route weight, and 0 where the token is not routed to the expert.
    `stats.routing` says how often tokens are routed to each expert, and how active the expert's
    neurons are on those tokens, before the route weight is applied.

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids; see `cna_lens.models.encode`.
        keep: "stats" keeps count, mean and variance, in memory that does not grow with the number
            of prompts; "all" keeps every prompt's activations.
        folder: for `keep="all"`, write safetensors shards to this folder; needed above 1 GiB.
        position: index of the token to read in the encoded prompt, chat template included and
            padding excluded; -1 is the last. "answer" is the last one before the answer, behind
            the model's own reasoning, which is generated first; see `with_reasoning`.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: a number: prompts per forward pass, each in its own row. "auto": fits batches to
            free memory, and packs several prompts into a row where that saves enough tokens, and
            the model supports it and has no hooks.
        progress: show a progress bar.
        share_prefix: compute common beginnings once, where the model supports it.

    Raises:
        InputError: a prompt cannot be used, or does not have the position.
        ModelError: the model's neurons cannot be reached.
        ActivationError: an activation is infinite or not a number.
    """
    if keep not in ("stats", "all"):
        raise InputError(f"keep is {keep!r}, expected 'stats' or 'all'")
    if folder is not None and keep != "all":
        raise InputError("folder is given with keep='stats'; pass keep='all' to write activations")
    reader = Reader(model, position, batch_size, progress, share_prefix)
    encoded = encode(model, prompts, chat=chat)
    if position == "answer":
        (encoded,) = behind_reasoning(model, {"prompts": (prompts, encoded)}, chat)
    source = reader.source(encoded)
    if keep == "all":
        kept = KeptActivations(source, None if folder is None else Path(folder))
        reader.read([(encoded, kept)])
        return kept.kept()
    moments = RunningMoments(source)
    reader.read([(encoded, moments)])
    return moments.stats()
