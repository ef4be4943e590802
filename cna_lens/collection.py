"""Collect: run prompts, and read each MLP neuron's activation at one token of each prompt.

This is one of the two modules that touch hooks; the other is `steering`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.activations import KeptActivations, PromptActivations
from cna_lens.batching import (
    BatchSize,
    TokenIds,
    check_batch_size,
    length_buckets,
    pad,
)
from cna_lens.errors import ActivationError, InputError, ModelError
from cna_lens.expert_hooks import expert_hooks
from cna_lens.expert_readout import ExpertReadout
from cna_lens.forward import SharedPrefix, forward_trunk
from cna_lens.memory import run_in_halves, token_budget
from cna_lens.moments import ActivationStats, Reducer, RunningMoments
from cna_lens.positions import prompt_lengths
from cna_lens.prompt_sets import diverse_prompts
from cna_lens.prompts import Chat, EncodedPrompts, Prompt, encode, pad_token_id
from cna_lens.sites import (
    HookedModel,
    LayerSites,
    Site,
    input_device,
    model_name,
    site_hook_names,
    sparse_sites,
)
from cna_lens.types import HOOK_SITE, Layout, Source
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
    product (arXiv 2605.12290, method, step 2). Prompts run in right-padded batches of like
    length, and what they have in common at the beginning, such as a chat template, is computed
    once; neither changes the result beyond float rounding.

    In a layer with experts an activation counts as what reaches the output: the gated activation
    times its expert's route weight, 0 where the token is not routed to it. How often it is, and how
    active neurons then are without the weight, is in the statistics' `routing`.

    >>> stats = collect(tiny_model, ["Hello.", "A longer one."], chat=False)
    >>> stats.count, stats.layout
    (2, Layout(widths=(24, 24)))

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids; see `cna_lens.prompts.encode`.
        keep: "stats" keeps count, mean and variance, in memory that does not grow with the number
            of prompts; "all" keeps every prompt's activations.
        folder: for `keep="all"`, write them there as safetensors shards; needed above 1 GiB.
        position: the token to read, counted in each prompt's own tokens: -1 is its last one
            whatever the padding, 0 its first.
        chat: put strings into the chat template; "auto" where the tokenizer has one.
        batch_size: prompts for each forward pass; "auto" fits them to the free memory.
        progress: show a progress bar.
        share_prefix: compute a common prefix once, where the model can.

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
        share_prefix: compute a common prefix once, where the model can.
        site: the hook point of each block that is read; the MLP neurons unless told otherwise.
    """

    model: HookedModel
    position: int = -1
    batch_size: BatchSize = "auto"
    progress: bool = False
    share_prefix: bool = True
    site: Site = HOOK_SITE

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant, before anything runs."""
        _check_position(self.position)
        check_batch_size(self.batch_size)

    def read(self, sets: Sequence[tuple[EncodedPrompts, Reducer]]) -> None:
        """Run all prompts once, handing each set's activations to its reducer."""
        prompts = [ids for encoded, _ in sets for ids in encoded.ids]
        owner = [
            (which, row)
            for which, (encoded, _) in enumerate(sets)
            for row in range(len(encoded.ids))
        ]
        sparse = sparse_sites(self.model) if self.site == HOOK_SITE else ()
        with expert_hooks(self.model) if sparse else nullcontext():
            for batch, read in self.batches(prompts, sparse):
                for which, (_, reducer) in enumerate(sets):
                    mine = [i for i, prompt in enumerate(batch) if owner[prompt][0] == which]
                    if mine:
                        rows = [owner[batch[i]][1] for i in mine]
                        weights = None if read.route_weights is None else read.route_weights[mine]
                        reducer.update(rows, read.activations[mine], read.layout, weights)

    def source(self, encoded: EncodedPrompts) -> Source:
        """Where the activations of a set come from."""
        return Source(
            model=model_name(self.model),
            position=self.position,
            prompts=encoded.record,
            template_sha256=encoded.template_sha256,
            site=self.site,
        )

    def batches(
        self, prompts: Sequence[TokenIds], sparse: Sequence[LayerSites] = ()
    ) -> Iterator[tuple[list[int], Read]]:
        """What is read of the prompts, batch by batch, with each batch's places in `prompts`.

        A batch that does not fit the memory is halved, and so are those after it.
        """
        names = site_hook_names(self.model, self.site)
        places = self.places(prompts)
        prefix = self.prefix(prompts, min(places))
        buckets = self.buckets(prompts, prefix, token_budget)

        def run(batch: list[int]) -> Read:
            with prompt_lengths([len(prompts[i]) for i in batch]):
                return self._run(
                    [prompts[i][prefix.length :] for i in batch],
                    [places[i] - prefix.length for i in batch],
                    prefix,
                    names,
                    sparse,
                )

        with tqdm(
            total=len(prompts), desc="collecting", unit="prompt", disable=not self.progress
        ) as bar:
            for batch, read in run_in_halves(buckets, run):
                _check_finite(read.activations, read.layout, model_name(self.model))
                yield batch, read
                bar.update(len(batch))

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
        prompts: Sequence[TokenIds],
        prefix: SharedPrefix,
        budget: Callable[[HookedModel, int], int],
    ) -> list[list[int]]:
        """Which prompts run together, padded within a budget of tokens."""
        lengths = [len(ids) - prefix.length for ids in prompts]
        if self.batch_size == "auto":
            longest = prefix.length + max(lengths)
            return length_buckets(lengths, token_budget=budget(self.model, longest))
        return length_buckets(lengths, max_prompts=self.batch_size)

    def _run(
        self,
        suffixes: Sequence[TokenIds],
        places: Sequence[int],
        prefix: SharedPrefix,
        names: tuple[str | None, ...],
        sparse: Sequence[LayerSites],
    ) -> Read:
        device = input_device(self.model)
        ids, mask = pad(suffixes, pad_token_id(self.model))
        before = torch.ones((len(ids), prefix.length), dtype=mask.dtype)
        tokens = torch.arange(len(ids)) * ids.shape[1] + torch.tensor(places)
        experts = ExpertReadout(sparse, tokens)
        readout = _Readout(names, torch.tensor(places), tuple(ids.shape), stops=not sparse)
        hooked = self.model.hooks(fwd_hooks=[*readout.fwd_hooks(), *experts.fwd_hooks()])
        with torch.no_grad(), suppress(_EverythingRead), hooked, experts.reading():
            forward_trunk(
                self.model,
                ids.to(device),
                torch.cat([before, mask], dim=1).to(device),
                prefix.read_only(),
            )
        return readout.with_experts(experts) if sparse else readout.activations()


class Read(NamedTuple):
    """What one batch gives.

    Attributes:
        activations: of each neuron, with its expert's route weight.
        layout: which neuron stands where.
        route_weights: of each MLP of `layout.mlps`, 0 where a prompt's token was not routed to it;
            None for a model without experts.
    """

    activations: Float[Tensor, "prompt neuron"]
    layout: Layout
    route_weights: Float[Tensor, "prompt mlp"] | None = None


class _EverythingRead(Exception):  # noqa: N818 (it ends a forward pass early, nothing failed)
    """Every layer has been read: what the model would still compute is not needed."""


class _Readout:
    """The hooks of one forward pass, and what they read."""

    def __init__(
        self,
        names: tuple[str | None, ...],
        places: Tensor,
        shape: tuple[int, ...],
        *,
        stops: bool,
    ) -> None:
        self.names = names
        self.stops = stops
        self.places = places
        self.rows = torch.arange(len(places))
        self.shape = shape
        self.read: dict[int, Float[Tensor, "prompt d_mlp"]] = {}

    def fwd_hooks(self) -> list[tuple[str, Callable[..., None]]]:
        return [
            (name, partial(self._read, layer=layer))
            for layer, name in enumerate(self.names)
            if name is not None
        ]

    def _read(self, activation: Tensor, hook: Any, *, layer: int) -> None:  # noqa: ARG002
        if layer in self.read:
            raise ModelError(f"{self.names[layer]} fired twice in one forward pass")
        if tuple(activation.shape[:-1]) != self.shape:
            raise ModelError(
                f"{self.names[layer]} holds a tensor of shape {tuple(activation.shape)}, expected "
                f"[batch, pos, width] with batch and pos {self.shape}"
            )
        # Indexing copies, so the activations of the other positions are freed.
        device = activation.device
        self.read[layer] = activation[self.rows.to(device), self.places.to(device)]
        if self.stops and len(self.read) == sum(name is not None for name in self.names):
            raise _EverythingRead

    def activations(self) -> Read:
        missing = [name for layer, name in enumerate(self.names) if name and layer not in self.read]
        if missing:
            raise ModelError(f"these hook points never fired: {', '.join(missing)}")
        layers = [self.read.get(layer) for layer in range(len(self.names))]
        layout = Layout(tuple(0 if layer is None else layer.shape[-1] for layer in layers))
        present = [layer for layer in layers if layer is not None]
        # MPS has no float64, in which the sums are kept.
        device = "cpu" if present[0].device.type == "mps" else present[0].device
        return Read(torch.cat([layer.to(device) for layer in present], dim=-1), layout)

    def with_experts(self, experts: ExpertReadout) -> Read:
        """The same with the layers that have experts, and their route weights."""
        weights = [torch.ones(len(self.rows), int(name is not None)) for name in self.names]
        for layer, (activations, route_weights) in experts.layers().items():
            self.read[layer], weights[layer] = activations, route_weights
        activations, layout, _ = self.activations()
        layout = Layout(layout.widths, experts.shapes(len(self.names)))
        return Read(activations, layout, torch.cat([each.float().cpu() for each in weights], -1))


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


def _check_finite(activations: Tensor, layout: Layout, model: str) -> None:
    finite = torch.isfinite(activations).all(0)
    if bool(finite.all()):
        return
    broken = sorted(set(layout.layer_of[~finite.cpu()].tolist()))
    raise ActivationError(
        f"{model} gives infinite or not-a-number activations in layer "
        f"{', '.join(map(str, broken))}; load it in float32 or bfloat16, and check its weights"
    )
