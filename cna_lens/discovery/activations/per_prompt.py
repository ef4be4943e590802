"""Every prompt's activations, for those who resample or probe: in memory, or as shards on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats, RunningMoments
from cna_lens.errors import InputError
from cna_lens.results.layout import Layout
from cna_lens.results.provenance import Source

IN_MEMORY_BYTES = 2**30
"""What is larger than this is kept on disk."""

# Shards have different numbers of prompts, so that they name no shape.
Shard = tuple[tuple[int, ...], Tensor]


@dataclass(frozen=True)
class PromptActivations:
    """The activation of every neuron on every prompt, from `collect(..., keep="all")`.

    >>> kept = collect(tiny_model, ["One.", "Another one."], keep="all", chat=False)
    >>> kept.matrix().shape
    torch.Size([2, 48])

    Attributes:
        layout: which neurons the last axis holds.
        source: where the activations came from.
        in_memory: the shards, each with its prompts' places; empty where they lie on disk.
        on_disk: the shards' files; empty where they are in memory.
        route_weights: with what weight each MLP of `layout.mlps` computed the token, 0 where it
            was not routed to it; None for a model without experts.
    """

    layout: Layout
    source: Source
    in_memory: tuple[Shard, ...] = ()
    on_disk: tuple[Path, ...] = ()
    route_weights: Float[Tensor, "prompt mlp"] | None = None

    def shards(self) -> Iterator[Shard]:
        """One shard after the other, as (places of the prompts, activations)."""
        yield from self.in_memory
        for path in self.on_disk:
            with safe_open(path, framework="pt") as file:
                yield tuple(file.get_tensor("prompts").tolist()), file.get_tensor("activations")

    def matrix(self) -> Float[Tensor, "prompt neuron"]:
        """All prompts, in their order, in memory."""
        return self.columns(0, self.layout.n_neurons)

    def columns(self, start: int, stop: int) -> Float[Tensor, "prompt n"]:
        """The neurons from `start` up to `stop` on all prompts; others stay on disk."""
        places: list[int] = []
        pieces: list[Tensor] = []
        for rows, activations in self.in_memory:
            places.extend(rows)
            pieces.append(activations[:, start:stop])
        for path in self.on_disk:
            with safe_open(path, framework="pt") as file:
                places.extend(file.get_tensor("prompts").tolist())
                pieces.append(file.get_slice("activations")[:, start:stop])
        return torch.cat(pieces)[torch.tensor(places).argsort()]

    def stats(self) -> ActivationStats:
        """What `collect` gives without `keep`."""
        moments = RunningMoments()
        for rows, activations in self.shards():
            weights = None if self.route_weights is None else self.route_weights[list(rows)]
            moments.update(rows, activations, self.layout, weights)
        return moments.stats(self.source)

    def __repr__(self) -> str:
        """One useful line."""
        where = f"{len(self.on_disk)} shards on disk" if self.on_disk else "in memory"
        return (
            f"PromptActivations({self.source.prompts.count} prompts, {self.layout.n_neurons} "
            f"neurons, {where}, model {self.source.model})"
        )


class KeptActivations:
    """Keeps the activations batch by batch."""

    def __init__(self, source: Source, folder: Path | None) -> None:
        """Begin with no prompts."""
        self._source = source
        self._folder = folder
        self._in_memory: list[Shard] = []
        self._on_disk: list[Path] = []
        self._layout = Layout(())
        self._route_weights: list[tuple[Sequence[int], Tensor]] = []

    def update(
        self,
        rows: Sequence[int],
        activations: Float[Tensor, "prompt neuron"],
        layout: Layout,
        route_weights: Float[Tensor, "prompt mlp"] | None = None,
    ) -> None:
        """Add a batch, on whatever device it lies."""
        self._layout = layout
        if route_weights is not None:
            self._route_weights.append((rows, route_weights.cpu()))
        if self._folder is not None:
            self._write(self._folder, rows, activations)
            return
        size = self._source.prompts.count * layout.n_neurons * activations.element_size()
        if size > IN_MEMORY_BYTES:
            raise InputError(
                f"the activations of {self._source.prompts.count} prompts take "
                f"{size / 2**30:.1f} GiB; pass folder=... to keep them on disk"
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
        """All batches so far."""
        return PromptActivations(
            self._layout,
            self._source,
            tuple(self._in_memory),
            tuple(self._on_disk),
            _in_order(self._route_weights) if self._route_weights else None,
        )


def _in_order(batches: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
    places = torch.tensor([row for rows, _ in batches for row in rows])
    return torch.cat([weights for _, weights in batches])[places.argsort()]
