"""What the hooks of one forward pass read: each layer's site at one token of each prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.discovery.activations.experts import ExpertReadout
from cna_lens.discovery.activations.means import Reducer
from cna_lens.errors import ActivationError, InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.expert_hooks import expert_hooks
from cna_lens.models.inside.paged_weights import paged_weights
from cna_lens.models.inside.sites import LayerSites, Site, site_hook_names, sparse_sites
from cna_lens.models.prompts.encoding import EncodedPrompts, TokenIds, pad_token_id
from cna_lens.models.running.batching import BatchSize, check_batch_size
from cna_lens.models.running.forward import SharedPrefix
from cna_lens.models.running.memory import run_in_batches
from cna_lens.models.running.packing import PackedTokens, Row, alone, forward_rows, rows_for
from cna_lens.models.running.positions import prompt_lengths
from cna_lens.models.trial.trial import tried
from cna_lens.results.layout import HOOK_SITE, Layout
from cna_lens.results.provenance import Position, Source


class Reading(NamedTuple):
    """What one batch gives.

    Attributes:
        activations: of each neuron, with its expert's route weight.
        layout: which neuron stands where.
        route_weights: of each MLP of `layout.mlps`, 0 where a prompt's token is not routed to it;
            None for a model without experts.
    """

    activations: Float[Tensor, "prompt neuron"]
    layout: Layout
    route_weights: Float[Tensor, "prompt mlp"] | None = None


class EverythingRead(Exception):  # noqa: N818 (it ends a forward pass early, nothing failed)
    """Every layer has been read: what the model would still compute is not needed."""


class Readout:
    """The hooks of one forward pass, and what they read."""

    def __init__(
        self,
        names: tuple[str | None, ...],
        rows: Tensor,
        columns: Tensor,
        shape: tuple[int, ...],
        experts: ExpertReadout,
    ) -> None:
        """Read the token at each row and column, in tensors that begin with `shape`."""
        self.names = names
        self.experts = experts
        self.rows = rows
        self.columns = columns
        self.shape = shape
        self.read: dict[int, Float[Tensor, "prompt d_mlp"]] = {}

    def fwd_hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """Each layer's hook, with the name of its hook point."""
        dense = [
            (name, partial(self._read, layer=layer))
            for layer, name in enumerate(self.names)
            if name is not None
        ]
        return [*dense, *self.experts.fwd_hooks()]

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
        self.read[layer] = activation[self.rows.to(device), self.columns.to(device)]
        all_read = len(self.read) == sum(name is not None for name in self.names)
        if all_read and not self.experts.sites:
            raise EverythingRead

    def reading(self) -> Reading:
        """What was read, all layers' neurons on one axis.

        Raises:
            ModelError: a hook point never fired.
        """
        missing = [name for layer, name in enumerate(self.names) if name and layer not in self.read]
        if missing:
            raise ModelError(f"these hook points never fired: {', '.join(missing)}")
        sparse = self.experts.layers()
        self.read |= {layer: activations for layer, (activations, _) in sparse.items()}
        layers = [self.read.get(layer) for layer in range(len(self.names))]
        widths = tuple(0 if layer is None else layer.shape[-1] for layer in layers)
        layout = Layout(widths, self.experts.shapes(len(self.names)))
        present = [layer for layer in layers if layer is not None]
        # MPS has no float64, in which the sums are kept.
        device = "cpu" if present[0].device.type == "mps" else present[0].device
        activations = torch.cat([layer.to(device) for layer in present], dim=-1)
        if not sparse:
            return Reading(activations, layout)
        weights = [
            sparse[layer][1].float().cpu() if layer in sparse else torch.ones(len(activations), 1)
            for layer, width in enumerate(widths)
            if width
        ]
        return Reading(activations, layout, torch.cat(weights, dim=-1))


def check_finite(activations: Tensor, layout: Layout, model: str) -> None:
    """Raise ActivationError where an activation is infinite or not a number.

    Args:
        activations: all layers' neurons on one axis.
        layout: which layer each is of.
        model: the model's name.
    """
    finite = torch.isfinite(activations).all(0)
    if bool(finite.all()):
        return
    broken = sorted(set(layout.layer_of[~finite.cpu()].tolist()))
    raise ActivationError(
        f"{model} gives infinite or not-a-number activations in layer "
        f"{', '.join(map(str, broken))}; load it in float32 or bfloat16, and check its weights"
    )


@dataclass(frozen=True)
class Reader:
    """Runs several sets of prompts as one stream, sharing prefix and batches between them.

    Attributes:
        model: a TransformerBridge or HookedTransformer.
        position: the token to read in each prompt; "answer" for the last one of prompts that end
            behind the model's reasoning.
        batch_size: prompts for each forward pass, or "auto".
        progress: show a progress bar.
        share_prefix: compute common beginnings once, where the model can.
        site: the hook point of each block that is read; the MLP neurons unless told otherwise.
            Of several sites, each has its layers behind those of the one before it.
        layer: read this block alone, and compute nothing behind it; None for all.
    """

    model: HookedModel
    position: Position = -1
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
            chat=encoded.chat,
        )

    def batches(self, prompts: Sequence[TokenIds]) -> Iterator[tuple[list[int], Reading]]:
        """What is read of the prompts, batch by batch, with each batch's places in `prompts`.

        A batch that does not fit the memory is halved, and so are those after it.
        """
        places = self.places(prompts)
        # Behind a prefix of its own, all weights would be read from the disk a second time.
        prefix = SharedPrefix(0) if self._in_one_pass else self.prefix(prompts, min(places))
        suffixes = [ids[prefix.length :] for ids in prompts]
        rows = self._rows(suffixes, prefix)

        def run(batch: list[int]) -> tuple[list[int], Reading]:
            found = [prompt for row in batch for prompt in rows[row].prompts]
            with prompt_lengths([len(prompts[prompt]) for prompt in found]):
                reading = self._run(
                    [[suffixes[prompt] for prompt in rows[row].prompts] for row in batch],
                    [places[prompt] - prefix.length for prompt in found],
                    prefix,
                )
            return found, reading

        for _, (found, reading) in run_in_batches(
            self.model,
            [row.length for row in rows],
            run,
            desc="collecting",
            batch_size=self.batch_size,
            progress=self.progress,
            prefix_length=prefix.length,
            counts=[len(row.prompts) for row in rows],
        ):
            check_finite(reading.activations, reading.layout, model_name(self.model))
            yield found, reading

    def places(self, prompts: Sequence[TokenIds]) -> list[int]:
        """Where the token to read stands in each prompt."""
        position = -1 if self.position == "answer" else self.position
        return [_place(position, ids, prompt) for prompt, ids in enumerate(prompts)]

    def prefix(self, prompts: Sequence[TokenIds], at_most: int) -> SharedPrefix:
        """What is computed once for all prompts."""
        if not self.share_prefix:
            return SharedPrefix(0)
        return SharedPrefix.of(self.model, prompts, at_most)

    @property
    def _in_one_pass(self) -> bool:
        """Whether rows hold the prompts whole, since the weights are read from the disk."""
        return (
            self.share_prefix
            and self.batch_size == "auto"
            and paged_weights(self.model) is not None
            and tried(self.model).no_packing is None
        )

    def _rows(self, suffixes: Sequence[TokenIds], prefix: SharedPrefix) -> list[Row]:
        if not self.share_prefix or self.batch_size != "auto":
            return alone(suffixes)
        return rows_for(
            self.model,
            suffixes,
            prefix,
            read=lambda rows, places: self._run(rows, places, prefix).activations,
        )

    # A bridge makes its dictionary of hook points anew each time, so each reader looks once.
    @cached_property
    def _names(self) -> tuple[str | None, ...]:
        return tuple(
            name if self.layer in (None, layer) else None
            for site in self.sites
            for layer, name in enumerate(site_hook_names(self.model, site))
        )

    @cached_property
    def _sparse(self) -> tuple[LayerSites, ...]:
        if HOOK_SITE not in self.sites:
            return ()
        sites = sparse_sites(self.model)
        return tuple(site for site in sites if self.layer in (None, site.layer))

    def _run(
        self, rows: Sequence[Sequence[TokenIds]], places: Sequence[int], prefix: SharedPrefix
    ) -> Reading:
        packed = PackedTokens.of(rows, pad_token_id(self.model))
        in_rows, columns = torch.tensor(packed.rows), torch.tensor(packed.at(places))
        experts = ExpertReadout(self._sparse, in_rows * packed.ids.shape[1] + columns)
        readout = Readout(self._names, in_rows, columns, tuple(packed.ids.shape), experts)
        hooked = self.model.hooks(fwd_hooks=readout.fwd_hooks())
        with torch.no_grad(), suppress(EverythingRead), hooked, experts.reading():
            forward_rows(self.model, packed, prefix)
        return readout.reading()


def _check_position(position: object) -> None:
    if not isinstance(position, int) and position != "answer":
        raise InputError(
            f"position is {position!r}, expected a whole number, -1 for the last token, or "
            "'answer' for the last one before the answer, behind the model's own reasoning"
        )


def _place(position: int, ids: TokenIds, prompt: int) -> int:
    if not -len(ids) <= position < len(ids):
        raise InputError(
            f"position {position} is out of range: prompt {prompt} has {len(ids)} tokens, "
            f"expected {-len(ids)} to {len(ids) - 1}"
        )
    return position % len(ids)
