"""What a fingerprint keeps of a measurement: all that later measurements are compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from cna_lens.audit.measuring.measurement import Measurement
from cna_lens.audit.measuring.probes import Probes
from cna_lens.audit.measuring.watch_list import Watched
from cna_lens.audit.measuring.weights import Matrices
from cna_lens.results.layout import Layout

SAME_PRODUCT = SAME_SUM = 0.05
"""How far an MLP's output may be from its down projection's, and the stream from the sum of what is
written to it, as shares of the kinds' distance, for the model to be one that computes so."""


@dataclass(frozen=True, eq=False)
class Axes:
    r"""In each layer the direction from benign to harmful canaries, and where each canary is on it.

    $$v_l = \bar{x}_l(\text{harmful}) - \bar{x}_l(\text{benign}), \qquad
    p_{l,i} = \frac{x_{l,i} \cdot v_l}{\|v_l\|^2}$$

    so that the kinds' means are 1 apart, whatever the layer's units.

    Attributes:
        directions: the unit vectors.
        lengths: the distance of the means.
        places: p above.
    """

    directions: Float[Tensor, "layer d_model"]
    lengths: Float[Tensor, " layer"]
    places: Float[Tensor, "layer canary"]

    @classmethod
    def between(cls, vectors: Float[Tensor, "layer canary d_model"], n_harmful: int) -> Axes:
        """From what was read at a site. A layer whose kinds do not differ has all places 0."""
        difference = vectors[:, :n_harmful].mean(1) - vectors[:, n_harmful:].mean(1)
        lengths = difference.norm(dim=-1)
        directions = difference / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)[:, None]
        along = torch.einsum("lcd,ld->lc", vectors, directions)
        return cls(directions, lengths, _shares(along, lengths))

    def of_canaries(self, rows: Int64[Tensor, " canary"]) -> Axes:
        """The same axes with the places of some canaries."""
        return replace(self, places=self.places[:, rows])

    def of(self, vectors: Float[Tensor, "layer canary d_model"]) -> Float[Tensor, "layer canary"]:
        """Where other vectors are on these axes."""
        return self.scaled(torch.einsum("lcd,ld->lc", vectors, self.directions))

    def scaled(self, along: Float[Tensor, "layer canary"]) -> Float[Tensor, "layer canary"]:
        """Lengths along the directions in units of the kinds' distance."""
        return _shares(along, self.lengths)


def _shares(
    along: Float[Tensor, "layer canary"], lengths: Float[Tensor, " layer"]
) -> Float[Tensor, "layer canary"]:
    differs = lengths > 0
    return torch.where(differs[:, None], along / lengths.where(differs, 1)[:, None], 0.0)


@dataclass(frozen=True, eq=False)
class Reference:
    r"""The numbers of the model that the fingerprint was taken of.

    Attributes:
        layout: of its neurons.
        n_harmful: how many of the canaries are harmful; these come first.
        log_odds: of a refusal, of each canary.
        stream: the residual stream behind each block.
        mlp: what each MLP adds to it.
        watched: which neurons are watched.
        activations: of the watched neurons, on each canary.
        energies: the norm of what each watched neuron is multiplied with; None where the model's
            matrices are not plain.
        readouts: what each neuron writes along its layer's direction of `mlp`, for each unit of
            activation; None as above.
        explained: whether `readouts` gave the MLP's output of each layer, in this model.
        offsets: what an MLP writes there beyond its neurons, such as by a bias.
        probes: random directions along which the matrices are read too; None as above.
        summed: whether each block's attention and MLP are all that it adds to the stream.
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
        """Keep what is needed of a measurement."""
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

    def of_canaries(self, rows: Int64[Tensor, " canary"]) -> Reference:
        """Of some canaries alone, as many harmful ones as before and these first."""
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
    """What the neurons write along each layer's direction, if the matrices are those read out."""
    layers = measurement.layout.split(measurement.neurons * readouts)
    return mlp.scaled(torch.stack([layer.sum(-1) for layer in layers]))


def unwritten(measurement: Measurement, stream: Axes) -> Float[Tensor, "layer canary"]:
    """What each block adds to the stream along its direction that neither of its parts wrote.

    0 in the first layer, whose input is not read.
    """
    added = measurement.stream[1:] - measurement.stream[:-1]
    beyond = torch.zeros_like(measurement.stream)
    beyond[1:] = added - measurement.attention[1:] - measurement.mlp[1:]
    return stream.of(beyond)
