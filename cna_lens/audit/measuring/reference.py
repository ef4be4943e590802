"""Reference: the numbers of a fingerprint with which later measurements are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from cna_lens.audit.measuring.measurement import Measurement, between_kinds
from cna_lens.audit.measuring.probes import Probes
from cna_lens.audit.measuring.watch_list import Watched
from cna_lens.audit.measuring.weights import Matrices
from cna_lens.results.layout import Layout

SAME_PRODUCT = SAME_SUM = 0.05
"""Largest accepted error, as a share of the kinds' distance: of an MLP's output against that of its
down projection, and of the residual stream against the sum of what is written to it. With a larger
error the model does not compute this way."""


@dataclass(frozen=True, eq=False)
class Axes:
    r"""The direction from benign to harmful canaries in each layer, and each canary's place on it.

    $$v_l = \bar{x}_l(\text{harmful}) - \bar{x}_l(\text{benign}), \qquad
    p_{l,i} = \frac{x_{l,i} \cdot v_l}{\|v_l\|^2}$$

    so that the means of the kinds are 1 apart, whatever the units of the layer.

    Attributes:
        directions: the unit vectors.
        lengths: the distance between the means.
        places: p above.
    """

    directions: Float[Tensor, "layer d_model"]
    lengths: Float[Tensor, " layer"]
    places: Float[Tensor, "layer canary"]

    @classmethod
    def between(cls, vectors: Float[Tensor, "layer canary d_model"], n_harmful: int) -> Axes:
        """The axes of one site. All places are 0 in a layer where the kinds do not differ."""
        difference = between_kinds(vectors, n_harmful, dim=1)
        lengths = difference.norm(dim=-1)
        directions = difference / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)[:, None]
        along = torch.einsum("lcd,ld->lc", vectors, directions)
        return cls(directions, lengths, quotient(along, lengths[:, None]))

    def of_canaries(self, rows: Int64[Tensor, " canary"]) -> Axes:
        """The same axes with the places of some canaries."""
        return replace(self, places=self.places[:, rows])

    def of(self, vectors: Float[Tensor, "layer canary d_model"]) -> Float[Tensor, "layer canary"]:
        """The places of other vectors on these axes."""
        return self.scaled(torch.einsum("lcd,ld->lc", vectors, self.directions))

    def scaled(self, along: Float[Tensor, "layer canary"]) -> Float[Tensor, "layer canary"]:
        """Lengths along the directions in units of the kinds' distance."""
        return quotient(along, self.lengths[:, None])


def quotient(
    part: Float[Tensor, "*axes"], whole: Float[Tensor, "*#axes"], otherwise: float = 0.0
) -> Float[Tensor, "*axes"]:
    """Divide a part by the whole; the result is `otherwise` where the whole is not above 0."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), otherwise)


@dataclass(frozen=True, eq=False)
class Reference:
    """The numbers of the model whose fingerprint was taken.

    Attributes:
        layout: the layout of its neurons.
        n_harmful: the number of harmful canaries, which come first.
        log_odds: the log-odds of a refusal, for each canary.
        stream: the axes in the residual stream after each block.
        mlp: the axes in the outputs of the MLPs.
        watched: the watched neurons.
        activations: the activations of the watched neurons on each canary.
        energies: the norm of each watched neuron's output weights; None where the matrices of the
            model are not plain.
        readouts: the output of each neuron along its layer's direction of `mlp`, for a unit of
            activation; None as above.
        offsets: the output of each MLP there that does not come from its neurons, such as a bias.
        explained: for each layer, whether `readouts` and `offsets` give the output of the MLP.
        summed: for each layer, whether the block adds the outputs of its attention and its MLP to
            the stream, and nothing else.
        probes: random directions along which the matrices are read as well; None as above.
    """

    layout: Layout
    n_harmful: int
    log_odds: Float64[Tensor, " canary"]
    stream: Axes
    mlp: Axes
    watched: Watched
    activations: Float[Tensor, "canary watched"]
    energies: Float[Tensor, " watched"] | None
    readouts: Float[Tensor, " neuron"] | None
    offsets: Float[Tensor, " layer"]
    explained: tuple[bool, ...]
    summed: tuple[bool, ...]
    probes: Probes | None

    @classmethod
    def of(cls, measurement: Measurement, watched: Watched, matrices: Matrices | None) -> Reference:
        """The reference that a measurement gives."""
        stream, mlp = (
            Axes.between(vectors, measurement.n_harmful)
            for vectors in (measurement.stream, measurement.mlp)
        )
        readouts = None if matrices is None else matrices.along(mlp.directions)
        offsets = torch.zeros(len(mlp.lengths))
        explained = (False,) * len(mlp.lengths)
        if readouts is not None:
            beyond = mlp.places - written(measurement, mlp, readouts)
            offsets = beyond.mean(1)
            worst = (beyond - offsets[:, None]).abs().amax(1)
            explained = tuple(((worst < SAME_PRODUCT) & (mlp.lengths > 0)).tolist())
        places = watched.places
        return cls(
            measurement.layout,
            measurement.n_harmful,
            measurement.log_odds,
            stream,
            mlp,
            watched,
            measurement.neurons[:, places],
            None if matrices is None else matrices.energies[places],
            readouts,
            offsets,
            explained,
            tuple((unwritten(measurement, stream).abs().amax(1) < SAME_SUM).tolist()),
            None if matrices is None else Probes.of(measurement, matrices),
        )

    @property
    def gap(self) -> float:
        """The distance between the mean log-odds of harmful and of benign canaries, in nats."""
        return float(between_kinds(self.log_odds, self.n_harmful))

    def lost_log_odds(self, now: Measurement) -> Float64[Tensor, " canary"]:
        """The log-odds of a refusal that each canary has lost, in units of the gap."""
        return (self.log_odds - now.log_odds) / max(abs(self.gap), 1e-9)

    def of_canaries(self, rows: Int64[Tensor, " canary"]) -> Reference:
        """The reference of some canaries: as many harmful ones as before, and these first."""
        return replace(
            self,
            log_odds=self.log_odds[rows],
            stream=self.stream.of_canaries(rows),
            mlp=self.mlp.of_canaries(rows),
            activations=self.activations[rows],
        )


def written(
    measurement: Measurement, mlp: Axes, readouts: Float[Tensor, " neuron"]
) -> Float[Tensor, "layer canary"]:
    """The output of the neurons along each layer's direction, according to the readouts."""
    layers = measurement.layout.split(measurement.neurons * readouts)
    return mlp.scaled(torch.stack([layer.sum(-1) for layer in layers]))


def unwritten(measurement: Measurement, stream: Axes) -> Float[Tensor, "layer canary"]:
    """The change of the stream along each layer's direction that neither attention nor MLP wrote.

    0 in the first layer, whose input is not read.
    """
    added = measurement.stream[1:] - measurement.stream[:-1]
    beyond = torch.zeros_like(measurement.stream)
    beyond[1:] = added - measurement.attention[1:] - measurement.mlp[1:]
    return stream.of(beyond)
