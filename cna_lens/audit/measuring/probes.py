"""Random probes of MLP outputs: does their missing part lie along one direction in all layers?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.audit.measuring.measurement import Measurement
from cna_lens.audit.measuring.weights import Matrices

N_PROBES = 8
N_ROTATIONS = 1999

LEAST = 1e-3
"""The smallest missing share of an MLP's output, in the median, for which a direction is tested."""


@dataclass(frozen=True, eq=False)
class Probes:
    """Random directions, and the output of each neuron along them.

    Attributes:
        directions: unit vectors.
        readouts: the output of each neuron for a unit of activation.
        offsets: the output of each layer's MLP that does not come from its neurons, such as a bias.
    """

    directions: Float[Tensor, "probe d_model"]
    readouts: Float[Tensor, "probe neuron"]
    offsets: Float[Tensor, "layer probe"]

    @classmethod
    def of(cls, measurement: Measurement, matrices: Matrices, seed: int = 0) -> Probes:
        """Draw the directions and read the matrices along them."""
        n_layers, _, d_model = measurement.mlp.shape
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn((N_PROBES, d_model), generator=generator)
        directions = drawn / drawn.norm(dim=1, keepdim=True)
        readouts = torch.stack([matrices.along(each.expand(n_layers, -1)) for each in directions])
        probes = cls(directions, readouts, torch.zeros(n_layers, N_PROBES))
        beyond, _ = probes.beyond(measurement)
        return cls(directions, readouts, beyond.mean(1))

    def beyond(
        self, measurement: Measurement
    ) -> tuple[Float[Tensor, "layer canary probe"], Float[Tensor, "layer canary probe"]]:
        """The output of MLPs along the probes: the part beyond their neurons, and all of it."""
        written = measurement.mlp @ self.directions.t()
        layers = zip(
            measurement.layout.split(measurement.neurons),
            measurement.layout.split(self.readouts),
            strict=True,
        )
        explained = torch.stack([neurons @ readouts.t() for neurons, readouts in layers])
        return written - explained - self.offsets[:, None], written


def common_direction(
    beyond: Float[Tensor, "layer canary probe"],
    written: Float[Tensor, "layer canary probe"],
    seed: int = 0,
) -> tuple[float, Callable[[], float]]:
    r"""The share of the missing output along one direction, and a function that gives its p-value.

    $$\frac{\lambda_1}{\sum_k \lambda_k} \quad\text{of}\quad
    \sum_{l,i} \frac{e_{l,i} e_{l,i}^\top}{\|e_{l,i}\|^2}$$

    with e the missing output of the layer's MLP on a canary along the probes. The share is 1 if one
    direction is erased from all outputs. Under the null hypothesis each layer has its own
    directions: the sum of each layer is turned by a random rotation.

    Args:
        beyond: e above.
        written: the whole output along the probes; a missing part below a thousandth of it is
            noise, and gives 0.
        seed: seed of the rotations.
    """
    lengths = beyond.norm(dim=-1)
    share = lengths / written.norm(dim=-1).clamp_min(torch.finfo(written.dtype).tiny)
    if not share.numel() or float(share.median()) < LEAST:
        return 0.0, lambda: 1.0
    units = (beyond / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)[..., None]).double()
    layers = units.transpose(1, 2) @ units
    found = _largest(layers.sum(0))
    return float(found), lambda: _chance(layers, found, seed)


def _chance(layers: Float[Tensor, "layer n n"], found: Float[Tensor, ""], seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    n = layers.shape[-1]
    drawn = torch.randn((N_ROTATIONS, len(layers), n, n), generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(drawn).Q
    null = _largest((turns @ layers @ turns.transpose(-1, -2)).sum(1))
    return (1 + int((null >= found).sum())) / (1 + N_ROTATIONS)


def _largest(sums: Float[Tensor, "*rotation n n"]) -> Float[Tensor, "*rotation"]:
    eigenvalues = torch.linalg.eigvalsh(sums)
    return eigenvalues[..., -1] / eigenvalues.sum(-1)
