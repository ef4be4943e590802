"""Collect: run prompts, and read each MLP neuron's activation at one token of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

from cna_lens.discovery.activations.means import ActivationStats, RunningMoments
from cna_lens.discovery.activations.per_prompt import KeptActivations, PromptActivations
from cna_lens.discovery.activations.reader import (
    Reader,
)
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import (
    Chat,
    Prompt,
    encode,
)
from cna_lens.models.running.batching import BatchSize


@overload
def collect(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    keep: Literal["stats"] = "stats",
    position: int = -1,
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
    position: int = -1,
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
    position: int = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
    share_prefix: bool = True,
) -> ActivationStats | PromptActivations:
    """Mean and variance of every MLP neuron's activation at one token of each prompt.

    A neuron's activation is its entry in the input of the down projection, so after the gate
    product (arXiv 2605.12290, method, step 2). What all prompts begin with, like a chat template,
    is computed once; prompts that begin alike after it, such as "How do I", stand in one row, in
    which their common beginning is computed once too; rows run in right-padded batches of like
    length. None of this changes the result beyond float rounding.

    In a layer with experts an activation counts as what reaches the output: the gated activation
    times its expert's route weight, 0 where the token is not routed to it. How often it is, and how
    active neurons then are without the weight, is in the statistics' `routing`.

    >>> stats = collect(tiny_model, ["Hello.", "A longer one."], chat=False)
    >>> stats.count, stats.layout
    (2, Layout(widths=(24, 24)))

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids; see `cna_lens.models.encode`.
        keep: "stats" keeps count, mean and variance, in memory that does not grow with the number
            of prompts; "all" keeps every prompt's activations.
        folder: for `keep="all"`, write them there as safetensors shards; needed above 1 GiB.
        position: the token to read, counted in each prompt's own tokens: -1 is its last one
            whatever the padding, 0 its first.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass, one a row; "auto" packs rows, where the model
            can and carries no hooks, and fits them to the free memory.
        progress: show a progress bar.
        share_prefix: compute common beginnings once, where the model can.

    Raises:
        InputError: bad prompts, or a position outside one of them.
        ModelError: the model's neurons cannot be reached.
        ActivationError: an activation is infinite or not a number.
    """
    if keep not in ("stats", "all"):
        raise InputError(f"keep is {keep!r}, expected 'stats' or 'all'")
    if folder is not None and keep != "all":
        raise InputError("folder is for keep='all'; statistics are kept in memory")
    encoded = encode(model, prompts, chat=chat)
    reader = Reader(model, position, batch_size, progress, share_prefix)
    source = reader.source(encoded)
    if keep == "all":
        kept = KeptActivations(source, None if folder is None else Path(folder))
        reader.read([(encoded, kept)])
        return kept.kept()
    moments = RunningMoments()
    reader.read([(encoded, moments)])
    return moments.stats(source)
