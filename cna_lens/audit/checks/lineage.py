"""Lineage: is a model of the fingerprint's family at all, or another model?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import torch
from jaxtyping import Float, Float64
from scipy.stats import norm
from torch import Tensor

from cna_lens.audit.measuring.measurement import Measurement
from cna_lens.audit.measuring.reference import Axes, Reference
from cna_lens.audit.measuring.weights import Matrices

LEAST: Final = 0.3
"""The smallest agreement of two models of one family."""

ALPHA: Final = 0.01
"""The largest p-value with which an agreement counts."""

N_ROTATIONS: Final = 1999

OUTPUT_WEIGHTS: Final = "output weights"


@dataclass(frozen=True)
class Agreement:
    """How far one kind of measurement agrees with the fingerprint's.

    Attributes:
        name: what was compared.
        statistic: 1 for the fingerprint's model, about 0 for a model that has nothing to do with
            it.
        chance: computes the p-value, which takes most of the time.
    """

    name: str
    statistic: float
    chance: Callable[[], float] = field(repr=False, compare=False)

    @cached_property
    def p_value(self) -> float:
        """Probability of an agreement this large between models of different families."""
        return self.chance()

    @property
    def shows_kinship(self) -> bool:
        """Whether the models are of one family by this agreement alone."""
        return self.statistic >= LEAST and self.p_value <= ALPHA


def agreements(
    reference: Reference, now: Measurement, matrices: Matrices | None
) -> tuple[Agreement, ...]:
    """All agreements that can be measured; `matrices` is None where weights are not examined."""
    found = [output_weights(reference, matrices), directions(reference, now)]
    return tuple(each for each in (*found, activations(reference, now)) if each is not None)


def output_weights(reference: Reference, matrices: Matrices | None) -> Agreement | None:
    r"""The agreement of what the neurons of each layer write, whatever their order and scale.

    $$G_l = \frac{1}{n} \sum_j \frac{r_{lj} r_{lj}^\top}{\|r_{lj}\|^2} - \frac{I}{k}, \qquad
    T = \frac{\sum_l \langle G_l^\circ, G_l \rangle}
    {\sqrt{\sum_l \|G_l^\circ\|^2 \sum_l \|G_l\|^2}}$$

    with r the output weights of a neuron along k orthonormal directions, which span those of the
    fingerprint's probes. The order of the neurons and the length and sign of their output weights
    do not change G. Under the null hypothesis the other model's residual stream has another basis:
    all its G are turned by one random rotation.

    None if one of the models has no plain matrices.
    """
    if reference.probes is None or matrices is None:
        return None
    probes = reference.probes.directions
    n_layers = reference.layout.n_layers
    readouts = torch.stack([matrices.along(each.expand(n_layers, -1)) for each in probes])
    before, after = (
        writing(reference.layout.split(each), probes)
        for each in (reference.probes.readouts, readouts)
    )
    size = float(before.norm() * after.norm())
    statistic = 0.0 if size == 0 else float((before * after).sum()) / size
    return Agreement(OUTPUT_WEIGHTS, statistic, lambda: _turned(before, after))


def writing(
    readouts: Sequence[Float[Tensor, "probe _"]], probes: Float[Tensor, "probe d_model"]
) -> Float64[Tensor, "layer k k"]:
    """G above, for each layer that has neurons.

    >>> one = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    >>> writing([one], torch.eye(2))[0].tolist()
    [[0.0, 0.0], [0.0, -0.5]]

    Args:
        readouts: what each neuron writes along the probes, for a unit of activation.
        probes: the directions, which need not be orthogonal.
    """
    left, sizes, _ = torch.linalg.svd(probes.double(), full_matrices=False)
    orthonormal = (left / sizes).t()
    tiny = torch.finfo(torch.float64).tiny
    found: list[Tensor] = []
    for layer in readouts:
        if layer.shape[1]:
            along = orthonormal @ layer.double()
            units = along / along.norm(dim=0).clamp_min(tiny)
            even = torch.eye(len(sizes), dtype=torch.float64) / len(sizes)
            found.append(units @ units.t() / units.shape[1] - even)
    return torch.stack(found)


def _turned(
    before: Float64[Tensor, "layer k k"], after: Float64[Tensor, "layer k k"], seed: int = 0
) -> float:
    generator = torch.Generator().manual_seed(seed)
    k = before.shape[-1]
    drawn = torch.randn((N_ROTATIONS, k, k), generator=generator, dtype=torch.float64)
    turns = torch.linalg.qr(drawn).Q
    together = torch.einsum("lab,lcd->abcd", before, after)
    null = torch.einsum("abcd,nac,nbd->n", together, turns, turns)
    found = (before * after).sum()
    return (1 + int((null >= found).sum())) / (1 + N_ROTATIONS)


def directions(reference: Reference, now: Measurement) -> Agreement:
    r"""The agreement of the directions from benign to harmful canaries in the residual stream.

    $$T = \frac{1}{n} \sum_l v_l^\circ \cdot v_l$$

    After arXiv 2602.09434: refusal vectors tell a model's family. Under the null hypothesis one
    random rotation turns all directions of the other model; T is then about normal with the
    variance

    $$\frac{1}{n^2 d} \sum_{l,m} (v_l^\circ \cdot v_m^\circ) (v_l \cdot v_m)$$
    """
    before = reference.stream.directions.double()
    after = Axes.between(now.stream, reference.n_harmful).directions.double()
    n, d_model = before.shape
    statistic = float((before * after).sum()) / n
    variance = float(((before @ before.t()) * (after @ after.t())).sum()) / (n**2 * d_model)
    return Agreement("refusal directions", statistic, lambda: _above(statistic, variance))


def activations(reference: Reference, now: Measurement) -> Agreement | None:
    r"""The agreement of the watched neurons' mean activations on benign canaries.

    $$T = \frac{1}{n} \sum_l x_l^\circ \cdot x_l$$

    with x the means in a layer, less their mean over the layer's watched neurons, and of length 1.
    Under the null hypothesis the neurons of each layer are in another order; the variance of T is
    then $\frac{1}{n^2} \sum_l \frac{1}{k_l - 1}$ with k the number of watched neurons. None if no
    layer has three of them.
    """
    watched, benign = reference.watched.places, slice(reference.n_harmful, None)
    layers = reference.layout.layer_of[watched]
    before = reference.activations[benign].double().mean(0)
    after = now.neurons[benign, watched].double().mean(0)
    found: list[tuple[float, int]] = []
    for layer in layers.unique():
        one, other = (each[layers == layer] for each in (before, after))
        one, other = one - one.mean(), other - other.mean()
        size = float(one.norm() * other.norm())
        if len(one) >= 3 and size > 0:
            found.append((float(one @ other) / size, len(one)))
    if not found:
        return None
    statistic = sum(cosine for cosine, _ in found) / len(found)
    variance = sum(1 / (count - 1) for _, count in found) / len(found) ** 2
    return Agreement("neurons' activations", statistic, lambda: _above(statistic, variance))


def _above(statistic: float, variance: float) -> float:
    return float(norm.sf(statistic / variance**0.5)) if variance > 0 else 1.0
