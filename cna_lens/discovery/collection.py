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
    """Compute the mean and variance of every MLP neuron's activation over a set of prompts.

    A neuron's activation is its entry in the input of the down projection, after the product with
    the gate (arXiv 2605.12290, method, step 2). It is read at one token of each prompt, the last
    one by default.

    >>> stats = collect(tiny_model, ["Hello.", "A longer one."], chat=False)
    >>> stats.count, stats.layout
    (2, Layout(widths=(24, 24)))

    Tokens with which all prompts begin, such as those of a chat template, are computed once.
    Prompts that begin alike after it, such as with "How do I", are packed into one row, and their
    common beginning is computed once too. Rows of similar length run in one right-padded batch.
    None of this changes the result beyond float rounding.

    In a layer with experts, an activation counts as much as it adds to the output: the gated
    activation times the expert's route weight, and 0 where the token is not routed to the expert.
    `stats.routing` says how often tokens are routed to each expert, and how active its neurons then
    are without the weight.

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids; see `cna_lens.models.encode`.
        keep: "stats" keeps count, mean and variance, in memory that does not grow with the number
            of prompts; "all" keeps every prompt's activations.
        folder: for `keep="all"`, write safetensors shards to this folder; needed above 1 GiB.
        position: the token to read, counted in each prompt's own tokens: -1 is its last one
            whatever the padding, 0 its first.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass, one a row. "auto" fits the batches to the free
            memory, and packs prompts into rows where the model supports it and carries no hooks.
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
    encoded = encode(model, prompts, chat=chat)
    reader = Reader(model, position, batch_size, progress, share_prefix)
    source = reader.source(encoded)
    if keep == "all":
        kept = KeptActivations(source, None if folder is None else Path(folder))
        reader.read([(encoded, kept)])
        return kept.kept()
    moments = RunningMoments(source)
    reader.read([(encoded, moments)])
    return moments.stats()
