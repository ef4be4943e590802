"""What a fingerprint reads of the weights: a hash for each tensor, and what neurons write."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.projections import down_projection
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.models.inside.weights import named_weights
from cna_lens.results.layout import Layout


@dataclass(frozen=True)
class TensorRecord:
    """One tensor of the weights.

    Attributes:
        name: as the model has it.
        dtype: its numbers' type.
        shape: its sizes.
        sha256: the hash of its bytes.
        norm: the square root of the sum of its squares.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    norm: float


def tensor_records(model: HookedModel | nn.Module) -> tuple[TensorRecord, ...]:
    """A record of each tensor of a model's weights, in the order of their names."""
    return tuple(_record(name, each) for name, each in sorted(named_weights(model).items()))


def _record(name: str, tensor: Tensor) -> TensorRecord:
    values = tensor.detach()
    content = values.contiguous().view(-1).view(torch.uint8).cpu().numpy().data
    return TensorRecord(
        name,
        str(tensor.dtype).removeprefix("torch."),
        tuple(tensor.shape),
        hashlib.sha256(content).hexdigest(),
        float(values.float().norm()),
    )


@dataclass(frozen=True, eq=False)
class Matrices:
    """The down projections: what each neuron adds to the residual stream.

    Attributes:
        layout: of the neurons.
        columns: of each layer, what its neurons are multiplied with.
    """

    layout: Layout
    columns: tuple[Float[Tensor, "d_model neuron"], ...]

    @classmethod
    def of(cls, model: HookedModel, layout: Layout) -> Matrices | None:
        """Read the matrices; None where one is not plain, as a quantised one."""
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
            layers.append(torch.cat(found, 1) if found else torch.zeros(d_model, 0))
        return cls(layout, tuple(layers))

    @property
    def energies(self) -> Float[Tensor, " neuron"]:
        """The norm of what each neuron is multiplied with."""
        return torch.cat([layer.float().norm(dim=0).cpu() for layer in self.columns])

    def along(self, directions: Float[Tensor, "layer d_model"]) -> Float[Tensor, " neuron"]:
        """What each neuron writes along its layer's direction."""
        return torch.cat(
            [
                (direction.to(layer.device) @ layer.float()).cpu()
                for direction, layer in zip(directions, self.columns, strict=True)
            ]
        )
