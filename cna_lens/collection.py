"""Collect: run prompts, and read each MLP neuron's activation at one token of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import torch
from tqdm.auto import tqdm

from cna_lens.activations import KeptActivations, PromptActivations
from cna_lens.errors import InputError
from cna_lens.expert_readout import ExpertReadout
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.expert_hooks import expert_hooks
from cna_lens.models.inside.sites import Site, site_hook_names, sparse_sites
from cna_lens.models.prompts.encoding import (
    Chat,
    EncodedPrompts,
    Prompt,
    TokenIds,
    encode,
    pad_token_id,
)
from cna_lens.models.prompts.sets import diverse_prompts
from cna_lens.models.running.batching import BatchSize, check_batch_size, length_buckets
from cna_lens.models.running.forward import SharedPrefix
from cna_lens.models.running.memory import run_in_halves, token_budget
from cna_lens.models.running.packing import PackedTokens, Row, alone, forward_rows, rows_for
from cna_lens.models.running.positions import prompt_lengths
from cna_lens.moments import ActivationStats, Reducer, RunningMoments
from cna_lens.readout import EverythingRead, Reading, Readout, check_finite
from cna_lens.results.layout import HOOK_SITE
from cna_lens.results.provenance import Source
from cna_lens.universal import TopCounts, UniversalNeurons, UniversalRule


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


def universal_neurons(
    model: HookedModel,
    prompts: Sequence[Prompt] | None = None,
    *,
    rule: UniversalRule | None = None,
    position: int = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> UniversalNeurons:
    """The neurons that are among the most active ones on nearly every one of diverse prompts.

    Source: arXiv 2605.12290, method, step 5. What it leaves open is in `UniversalRule`.

    >>> universal = universal_neurons(tiny_model, ["Hello.", "A longer one."], chat=False)
    >>> universal.rule, universal.prompts.count
    (UniversalRule(fraction=0.001, threshold=0.8, scope='model', by='magnitude'), 2)

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: diverse prompts, the packaged 40 by default.
        rule: when a neuron is universal; the paper's 0.1 % and 80 % by default.
        position: the token to read, as for `collect`.
        chat: put strings into the chat template.
        batch_size: prompts for each forward pass.
        progress: show a progress bar.
    """
    encoded = encode(model, diverse_prompts() if prompts is None else prompts, chat=chat)
    counts = TopCounts(rule or UniversalRule())
    Reader(model, position, batch_size, progress).read([(encoded, counts)])
    return counts.universal(encoded.record)


@dataclass(frozen=True)
class Reader:
    """Runs several sets of prompts as one stream, sharing prefix and batches between them.

    Attributes:
        model: a TransformerBridge or HookedTransformer.
        position: the token to read in each prompt.
        batch_size: prompts for each forward pass, or "auto".
        progress: show a progress bar.
        share_prefix: compute common beginnings once, where the model can.
        site: the hook point of each block that is read; the MLP neurons unless told otherwise.
            Of several sites, each has its layers behind those of the one before it.
        layer: read this block alone, and compute nothing behind it; None for all.
    """

    model: HookedModel
    position: int = -1
    batch_size: BatchSize = "auto"
    progress: bool = False
    share_prefix: bool = True
    site: Site | tuple[Site, ...] = HOOK_SITE
    layer: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant, before anything runs."""
        _check_position(self.position)
        check_batch_size(self.batch_size)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that are read, in their order."""
        return (self.site,) if isinstance(self.site, str) else self.site

    def read(self, sets: Sequence[tuple[EncodedPrompts, Reducer]]) -> None:
        """Run all prompts once, handing each set's activations to its reducer."""
        prompts = [ids for encoded, _ in sets for ids in encoded.ids]
        owner = [
            (which, row)
            for which, (encoded, _) in enumerate(sets)
            for row in range(len(encoded.ids))
        ]
        # Not in the generator, whose context would outlive an exception of a reducer.
        with self._experts():
            for batch, (activations, layout, weights) in self.batches(prompts):
                for which, (_, reducer) in enumerate(sets):
                    mine = [i for i, prompt in enumerate(batch) if owner[prompt][0] == which]
                    if mine:
                        rows = [owner[batch[i]][1] for i in mine]
                        own = None if weights is None else weights[mine]
                        reducer.update(rows, activations[mine], layout, own)

    def _experts(self) -> AbstractContextManager[None]:
        return expert_hooks(self.model) if HOOK_SITE in self.sites else nullcontext()

    def source(self, encoded: EncodedPrompts) -> Source:
        """Where the activations of a set come from."""
        return Source(
            model=model_name(self.model),
            position=self.position,
            prompts=encoded.record,
            template_sha256=encoded.template_sha256,
            site=" ".join(self.sites),
        )

    def batches(self, prompts: Sequence[TokenIds]) -> Iterator[tuple[list[int], Reading]]:
        """What is read of the prompts, batch by batch, with each batch's places in `prompts`.

        A batch that does not fit the memory is halved, and so are those after it.
        """
        places = self.places(prompts)
        prefix = self.prefix(prompts, min(places))
        suffixes = [ids[prefix.length :] for ids in prompts]
        rows = self._rows(suffixes, prefix)
        buckets = self.buckets([row.length for row in rows], prefix, token_budget)

        def run(batch: list[int]) -> tuple[list[int], Reading]:
            found = [prompt for row in batch for prompt in rows[row].prompts]
            with prompt_lengths([len(prompts[prompt]) for prompt in found]):
                reading = self._run(
                    [[suffixes[prompt] for prompt in rows[row].prompts] for row in batch],
                    [places[prompt] - prefix.length for prompt in found],
                    prefix,
                )
            return found, reading

        with tqdm(
            total=len(prompts), desc="collecting", unit="prompt", disable=not self.progress
        ) as bar:
            for _, (found, reading) in run_in_halves(buckets, run):
                check_finite(reading.activations, reading.layout, model_name(self.model))
                yield found, reading
                bar.update(len(found))

    def places(self, prompts: Sequence[TokenIds]) -> list[int]:
        """Where the token to read stands in each prompt."""
        return [_place(self.position, ids, prompt) for prompt, ids in enumerate(prompts)]

    def prefix(self, prompts: Sequence[TokenIds], at_most: int) -> SharedPrefix:
        """What is computed once for all prompts."""
        if not self.share_prefix:
            return SharedPrefix(0)
        return SharedPrefix.of(self.model, prompts, at_most)

    def buckets(
        self,
        lengths: Sequence[int],
        prefix: SharedPrefix,
        budget: Callable[[HookedModel, int], int],
    ) -> list[list[int]]:
        """Which rows of these lengths run together, padded within a budget of tokens."""
        if self.batch_size == "auto":
            longest = prefix.length + max(lengths)
            return length_buckets(lengths, token_budget=budget(self.model, longest))
        return length_buckets(lengths, max_prompts=self.batch_size)

    def _rows(self, suffixes: Sequence[TokenIds], prefix: SharedPrefix) -> list[Row]:
        if not self.share_prefix or self.batch_size != "auto":
            return alone(suffixes)
        return rows_for(
            self.model,
            suffixes,
            prefix,
            read=lambda rows, places: self._run(rows, places, prefix).activations,
        )

    def _run(
        self, rows: Sequence[Sequence[TokenIds]], places: Sequence[int], prefix: SharedPrefix
    ) -> Reading:
        packed = PackedTokens.of(rows, pad_token_id(self.model))
        in_rows, columns = torch.tensor(packed.rows), torch.tensor(packed.at(places))
        sparse = sparse_sites(self.model) if HOOK_SITE in self.sites else ()
        experts = ExpertReadout(sparse, in_rows * packed.ids.shape[1] + columns)
        names = tuple(
            name if self.layer in (None, layer) else None
            for site in self.sites
            for layer, name in enumerate(site_hook_names(self.model, site))
        )
        readout = Readout(names, in_rows, columns, tuple(packed.ids.shape), experts)
        hooked = self.model.hooks(fwd_hooks=readout.fwd_hooks())
        with torch.no_grad(), suppress(EverythingRead), hooked, experts.reading():
            forward_rows(self.model, packed, prefix)
        return readout.reading()


def _check_position(position: object) -> None:
    if not isinstance(position, int):
        raise InputError(
            f"position is {position!r}, expected a whole number, -1 for the last token"
        )


def _place(position: int, ids: TokenIds, prompt: int) -> int:
    if not -len(ids) <= position < len(ids):
        raise InputError(
            f"position {position} is out of range: prompt {prompt} has {len(ids)} tokens, "
            f"expected {-len(ids)} to {len(ids) - 1}"
        )
    return position % len(ids)
