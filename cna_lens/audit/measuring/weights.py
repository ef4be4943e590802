"""The weights in a fingerprint: a record of each tensor, and the output weights of neurons."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.projections import down_projection
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.models.inside.weights import loaded_weights
from cna_lens.results.layout import Layout

_PART = 1 << 24


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of the weights.

    Attributes:
        name: its name in the model.
        dtype: the type of its numbers.
        shape: its shape.
        sha256: the hash of its bytes.
        norm: its Euclidean norm.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    norm: float


def tensor_records(model: HookedModel | nn.Module) -> tuple[TensorRecord, ...]:
    """A record of each tensor of a model's weights, sorted by name."""
    return tuple(_record(name, each) for name, each in loaded_weights(model))


def _record(name: str, tensor: Tensor) -> TensorRecord:
    values = tensor.detach()
    content = values.contiguous().view(-1).view(torch.uint8).cpu().numpy().data
    return TensorRecord(
        name,
        str(tensor.dtype).removeprefix("torch."),
        tuple(tensor.shape),
        hashlib.sha256(content).hexdigest(),
        _norm(values),
    )


def _norm(values: Tensor) -> float:
    # In parts, since an embedding in float32 may take more memory than all else here.
    parts = values.reshape(-1).split(_PART)
    return math.sqrt(sum(float(part.float().norm()) ** 2 for part in parts))


@dataclass(frozen=True, eq=False)
class Matrices:
    """The down projections: the output weights of each neuron.

    Attributes:
        layout: the layout of the neurons.
        columns: for each layer, the vectors that its neurons write, one in each column.
    """

    layout: Layout
    columns: tuple[Float[Tensor, "d_model neuron"], ...]

    @classmethod
    def of(cls, model: HookedModel, layout: Layout) -> Matrices | None:
        """Read the matrices; None if one is not a plain matrix, for example quantised."""
        layers: list[Tensor] = []
        for site in neuron_sites(model):
            found: list[Tensor] = []
            for mlp in site.mlps:
                projection = down_projection(model, mlp)
                if projection is None or projection.weight.is_meta:
                    return None
                weight = projection.weight.detach()
                found.append(weight if projection.neuron_dim == 1 else weight.t())
            d_model = int(model.cfg.d_model)
            # Of a layer without experts, the weights themselves: copies of all take gigabytes.
            several = found or [torch.zeros(d_model, 0)]
            layers.append(several[0] if len(several) == 1 else torch.cat(several, 1))
        return cls(layout, tuple(layers))

    @property
    def energies(self) -> Float[Tensor, " neuron"]:
        """The norm of each neuron's output weights."""
        return torch.cat([layer.float().norm(dim=0).cpu() for layer in self.columns])

    def along(self, directions: Float[Tensor, "layer d_model"]) -> Float[Tensor, " neuron"]:
        """The output of each neuron along its layer's direction, for a unit of activation."""
        return torch.cat(
            [
                (direction.to(layer.device) @ layer.float()).cpu()
                for direction, layer in zip(directions, self.columns, strict=True)
            ]
        )
