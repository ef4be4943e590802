"""Attacks that erase more than one direction, or one direction not everywhere alike.

All of them project directions out of what blocks write to the residual stream, by hooks and in the
weights in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import count
from typing import Any, Literal, cast

import torch
from torch import Tensor

from cna_lens.models import HookedModel
from experiments.audit.bench import Bench
from experiments.audit.variants import Changes, Enter, steered
from experiments.audit.weight_edits import EMBEDDING, WRITERS, edited, without_directions

STRENGTHS = (1.0, 0.5)
FINE_STRENGTHS = (1.0, 0.5, 0.25)
DEPTHS: Mapping[int, tuple[float, ...]] = {2: (0.8,), 4: (0.3, 0.6, 0.9)}
"""Where directions beside the first one are read, as shares of the depth, by their number."""

SMALL = 1e-6
"""A direction that loses all but this share of its length to the others is left out."""

Via = Literal["hooks", "weights"]
Basis = Callable[[Bench], Tensor]
"""Orthonormal directions, one in each row."""

Weighting = Callable[[int, str, Bench], float]
"""The strength in a layer and a part of it: "embedding", "attention" or "mlp"."""


def erased_directions() -> Changes:
    """All of these attacks, for each strength."""
    ways: tuple[Via, Via] = ("hooks", "weights")
    place = count()

    def named(
        what: str, kind: str, strength: float, basis: Basis, weighting: Weighting
    ) -> tuple[str, str, Enter]:
        via = ways[next(place) % 2]
        name = f"{what} erased {strength:g} by {via}"
        return name, kind, erased(basis, weighting, strength, via)

    for n in DEPTHS:
        for strength in STRENGTHS:
            kind = "several directions"
            yield named(f"{n} directions", kind, strength, several(n), everywhere)
    for strength in FINE_STRENGTHS:
        yield named("direction by depth", "direction by depth", strength, one, near_the_source)
    for half, weighting in (("first", first_half), ("second", second_half)):
        for strength in STRENGTHS:
            what, kind = f"direction in the {half} half", "direction in some layers"
            yield named(what, kind, strength, one, weighting)
    for strength in FINE_STRENGTHS:
        what = "direction in attention"
        yield named(what, what, strength, one, attention_alone)
    for strength in FINE_STRENGTHS:
        what = "direction without concepts"
        yield named(what, what, strength, without_concepts, everywhere)


def erased(basis: Basis, weighting: Weighting, strength: float, via: Via) -> Enter:
    """Directions erased by hooks or in the weights, each layer with its own strength."""

    def enter(bench: Bench) -> AbstractContextManager[HookedModel]:
        strengths = {
            place: strength * weighting(layer, part, bench)
            for place, (layer, part) in writers(bench.model.cfg.n_layers, via).items()
        }
        rows = basis(bench)
        if via == "weights":
            change = without_directions(rows, lambda name: strengths.get(name, 0.0))
            return edited(bench.model, change)
        return steered(lambda bench: _hooks(bench.model, rows, strengths))(bench)

    return enter


def writers(n_layers: int, via: Via) -> dict[str, tuple[int, str]]:
    """What writes to the residual stream, with its layer and its part of it.

    >>> list(writers(1, "hooks"))
    ['blocks.0.hook_resid_pre', 'blocks.0.hook_attn_out', 'blocks.0.hook_mlp_out']

    Args:
        n_layers: the number of blocks.
        via: give the names of hook points or of weights.
    """
    first = "blocks.0.hook_resid_pre" if via == "hooks" else EMBEDDING
    names = (
        ("blocks.{}.hook_attn_out", "blocks.{}.hook_mlp_out")
        if via == "hooks"
        else tuple(f"model.layers.{{}}.{writer}" for writer in WRITERS)
    )
    blocks = {
        name.format(layer): (layer, part)
        for layer in range(n_layers)
        for name, part in zip(names, ("attention", "mlp"), strict=True)
    }
    return {first: (0, "embedding"), **blocks}


def _hooks(
    model: HookedModel, rows: Tensor, strengths: Mapping[str, float]
) -> AbstractContextManager[Any]:
    def erase(strength: float) -> Callable[..., Tensor]:
        def hook(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            basis = rows.to(value)
            return value - strength * (value @ basis.T) @ basis

        return hook

    found = [(name, erase(strength)) for name, strength in strengths.items() if strength]
    return cast("Any", model).hooks(found)


def everywhere(_: int, __: str, ___: Bench) -> float:
    """The same strength in all layers."""
    return 1.0


def near_the_source(layer: int, _: str, bench: Bench) -> float:
    """Full strength where the direction was read, and less with the distance, down to 0."""
    source, last = bench.places.direction_layer, bench.model.cfg.n_layers - 1
    return 1 - abs(layer - source) / max(source, last - source)


def first_half(layer: int, _: str, bench: Bench) -> float:
    """The first half of the layers, and the embedding."""
    return float(layer < bench.model.cfg.n_layers // 2)


def second_half(layer: int, _: str, bench: Bench) -> float:
    """The second half of the layers."""
    return 1.0 - first_half(layer, _, bench)


def attention_alone(_: int, part: str, __: Bench) -> float:
    """The outputs of attention alone."""
    return float(part == "attention")


def one(bench: Bench) -> Tensor:
    """The direction that removes most refusals."""
    return orthonormal(bench.directions.at_layer(bench.places.direction_layer).vectors)


def several(n: int) -> Basis:
    """That direction, and what other layers' directions have beside it."""

    def basis(bench: Bench) -> Tensor:
        vectors = bench.directions
        layers = [round(depth * (vectors.n_layers - 1)) for depth in DEPTHS[n]]
        rows = [vectors.at_layer(layer).vectors for layer in layers]
        return orthonormal(torch.cat([one(bench), *rows]))

    return basis


def without_concepts(bench: Bench) -> Tensor:
    """That direction less what it shares with benign concepts (SRA, arXiv 2601.08668)."""
    concepts = orthonormal(bench.concepts)
    (direction,) = one(bench)
    return orthonormal((direction - concepts.T @ (concepts @ direction))[None])


def orthonormal(vectors: Tensor) -> Tensor:
    """Each vector less what it shares with those before it, of length 1, by Gram-Schmidt.

    Args:
        vectors: one in each row; one that lies in the span of those before it is left out.
    """
    rows: list[Tensor] = []
    for vector in vectors.double():
        rest = vector
        # Twice, as rounding leaves a little of what was removed.
        for _ in range(2):
            for row in rows:
                rest = rest - (rest @ row) * row
        if rest.norm() > SMALL * vector.norm():
            rows.append(rest / rest.norm())
    return torch.stack(rows)
