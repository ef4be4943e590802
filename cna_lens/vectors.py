"""Control vectors: one for each of some layers, as wide as the residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.results.provenance import Source

VectorSite = Literal["hook_mlp_out", "hook_resid_pre", "hook_resid_post"]


@dataclass(frozen=True, eq=False)
class ControlVectors:
    """A vector for each of some layers, and where it came from.

    They come from `cna_lens.difference_of_means`, or are made by hand:

    >>> vectors = ControlVectors("hook_resid_post", (1,), torch.tensor([[3.0, 4.0]]).double(), 2)
    >>> vectors
    ControlVectors(hook_resid_post, layer 1 of 2, norm 5, d_model 2, model unknown)

    Attributes:
        site: the hook point of each block at which the vectors were read, and are added.
        layers: the layers that have one.
        vectors: one row a layer.
        n_layers: how many layers the model has.
        model: the model they were found on, None where that is not known.
        positive: what was run for the positive mean, None where that is not known.
        negative: what was run for the negative mean.
    """

    site: VectorSite
    layers: tuple[int, ...]
    vectors: Float64[Tensor, "layer d_model"]
    n_layers: int
    model: str | None = None
    positive: Source | None = None
    negative: Source | None = None

    def __post_init__(self) -> None:
        """Refuse vectors that are not one finite row for each of different layers."""
        if self.vectors.shape[:1] != (len(self.layers),) or not self.layers:
            raise InputError(
                f"there are {len(self.layers)} layers and vectors of shape "
                f"{tuple(self.vectors.shape)}; give one row for each layer"
            )
        if len(set(self.layers)) != len(self.layers):
            raise InputError(f"layers is {self.layers}; name each layer once")
        for layer in self.layers:
            if not 0 <= layer < self.n_layers:
                raise InputError(
                    f"layer {layer} does not exist: the model has layers 0 to {self.n_layers - 1}"
                )
        if not bool(torch.isfinite(self.vectors).all()):
            raise InputError("the vectors hold an infinite value or one that is not a number")

    @property
    def d_model(self) -> int:
        """The width of the residual stream."""
        return self.vectors.shape[1]

    @property
    def norms(self) -> Float64[Tensor, " layer"]:
        """The length of each vector."""
        return self.vectors.norm(dim=1)

    def items(self) -> Iterator[tuple[int, Float64[Tensor, " d_model"]]]:
        """Each layer and its vector."""
        return zip(self.layers, self.vectors, strict=True)

    def at_layer(self, layer: int) -> ControlVectors:
        """The vector of one layer alone.

        Raises:
            InputError: that layer has none.
        """
        if layer not in self.layers:
            raise InputError(
                f"layer {layer} has no vector; the layers that have one are "
                f"{', '.join(map(str, self.layers))}"
            )
        row = self.layers.index(layer)
        return replace(self, layers=(layer,), vectors=self.vectors[row : row + 1])

    def random(self, seed: int = 0) -> ControlVectors:
        """Random directions in their place, each uniform on the sphere and of the same length."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(self.vectors.shape, generator=generator, dtype=torch.float64)
        units = drawn / drawn.norm(dim=1, keepdim=True)
        return replace(self, vectors=units * self.norms[:, None], positive=None, negative=None)

    def __repr__(self) -> str:
        """One useful line."""
        layers = (
            f"layer {self.layers[0]} of {self.n_layers}"
            if len(self.layers) == 1
            else f"{len(self.layers)} of {self.n_layers} layers"
        )
        norms = f"{self.norms.min():.3g}"
        if len(self.layers) > 1:
            norms += f" to {self.norms.max():.3g}"
        return (
            f"ControlVectors({self.site}, {layers}, norm {norms}, d_model {self.d_model}, "
            f"model {self.model or 'unknown'})"
        )
