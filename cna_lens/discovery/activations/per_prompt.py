"""Every prompt's activations, to resample or to probe: in memory, or as shards on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats, RunningMoments
from cna_lens.errors import InputError
from cna_lens.results.layout import Layout
from cna_lens.results.provenance import PromptRecord, Source

IN_MEMORY_BYTES = 2**30
"""The most that is kept in memory; more needs a folder."""

# Shards have different numbers of prompts, so the annotation gives no shape.
Shard = tuple[tuple[int, ...], Tensor]


@dataclass(frozen=True)
class PromptActivations:
    """The activation of every neuron on every prompt, from `collect(..., keep="all")`.

    >>> kept = collect(tiny_model, ["One.", "Another one."], keep="all", chat=False)
    >>> kept.matrix().shape
    torch.Size([2, 48])

    Attributes:
        layout: the neuron at each place of the last axis.
        source: where the activations came from.
        in_memory: the shards, each with its prompts' places; empty where they lie on disk.
        on_disk: the shards' files; empty where they are in memory.
        route_weights: each MLP's route weight, in the order of `layout.mlps`, 0 where the token was
            not routed to it; None for a model without experts.
    """

    layout: Layout
    source: Source
    in_memory: tuple[Shard, ...] = ()
    on_disk: tuple[Path, ...] = ()
    route_weights: Float[Tensor, "prompt mlp"] | None = None

    def shards(self) -> Iterator[Shard]:
        """Yield one shard after the other, as (places of the prompts, activations)."""
        return self._columns(0, self.layout.n_neurons)

    def matrix(self) -> Float[Tensor, "prompt neuron"]:
        """Load all prompts into memory, in their order."""
        return self.columns(0, self.layout.n_neurons)

    def columns(self, start: int, stop: int) -> Float[Tensor, "prompt n"]:
        """Load the neurons from `start` up to `stop` on all prompts; others stay on disk."""
        return _in_order(self._columns(start, stop))

    def _columns(self, start: int, stop: int) -> Iterator[Shard]:
        for rows, activations in self.in_memory:
            yield rows, activations[:, start:stop]
        for path in self.on_disk:
            with safe_open(path, framework="pt") as file:
                rows = tuple(file.get_tensor("prompts").tolist())
                yield rows, file.get_slice("activations")[:, start:stop]

    def stats(self) -> ActivationStats:
        """Compute the statistics that `collect` gives without `keep`."""
        moments = RunningMoments(self.source)
        for rows, activations in self.shards():
            weights = None if self.route_weights is None else self.route_weights[list(rows)]
            moments.update(rows, activations, self.layout, weights)
        return moments.stats()

    def part(self, places: Sequence[int], prompts: PromptRecord) -> PromptActivations:
        """The activations of some of the prompts, in memory and in the given order.

        Args:
            places: the prompts' places among all.
            prompts: their record, from `encode`.
        """
        rows = list(places)
        weights = None if self.route_weights is None else self.route_weights[rows]
        return PromptActivations(
            self.layout,
            replace(self.source, prompts=prompts),
            ((tuple(range(len(rows))), self.matrix()[rows]),),
            route_weights=weights,
        )

    def __repr__(self) -> str:
        """Name the counts, the place and the model in one line."""
        where = f"{len(self.on_disk)} shards on disk" if self.on_disk else "in memory"
        return (
            f"PromptActivations({self.source.prompts.count} prompts, {self.layout.n_neurons} "
            f"neurons, {where}, model {self.source.model})"
        )


class KeptActivations:
    """Keeps all activations, batch by batch, as shards."""

    def __init__(self, source: Source, folder: Path | None = None) -> None:
        """Begin with no prompts of this source; write the shards to the folder, if there is one."""
        self._source = source
        self._folder = folder
        self._in_memory: list[Shard] = []
        self._on_disk: list[Path] = []
        self._layout = Layout(())
        self._route_weights: list[Shard] = []

    def update(
        self,
        rows: Sequence[int],
        activations: Float[Tensor, "prompt neuron"],
        layout: Layout,
        route_weights: Float[Tensor, "prompt mlp"] | None = None,
    ) -> None:
        """Add a batch."""
        self._layout = layout
        if route_weights is not None:
            self._route_weights.append((tuple(rows), route_weights.cpu()))
        if self._folder is not None:
            self._write(self._folder, rows, activations)
            return
        size = self._source.prompts.count * layout.n_neurons * activations.element_size()
        if size > IN_MEMORY_BYTES:
            raise InputError(
                f"the activations of {self._source.prompts.count} prompts take "
                f"{size / 2**30:.1f} GiB, at most {IN_MEMORY_BYTES / 2**30:.1f} GiB are kept in "
                "memory; pass folder=... to keep them on disk"
            )
        self._in_memory.append((tuple(rows), activations.cpu()))

    def _write(self, folder: Path, rows: Sequence[int], activations: Tensor) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"activations-{len(self._on_disk):05d}.safetensors"
        if path.exists():
            raise InputError(f"{path} exists already; pass a folder without activations in it")
        record = {"model": self._source.model, "site": self._source.site}
        unfinished = path.with_suffix(".unfinished")
        save_file(
            {"prompts": torch.tensor(rows), "activations": activations.cpu().contiguous()},
            unfinished,
            {"cna_lens": json.dumps(record, sort_keys=True)},
        )
        unfinished.replace(path)
        self._on_disk.append(path)

    def kept(self) -> PromptActivations:
        """Return all batches so far."""
        return PromptActivations(
            self._layout,
            self._source,
            tuple(self._in_memory),
            tuple(self._on_disk),
            _in_order(self._route_weights) if self._route_weights else None,
        )


def _in_order(shards: Iterable[Shard]) -> Tensor:
    """Join shards into one tensor, in the order of the prompts."""
    rows, pieces = zip(*shards, strict=True)
    return torch.cat(pieces)[torch.tensor(list(chain.from_iterable(rows))).argsort()]
