"""Measurement: activations and log-odds of a model, from two passes over the canaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from cna_lens.audit.measuring.canaries import Canaries
from cna_lens.discovery.activations.reader import Reader
from cna_lens.errors import InputError
from cna_lens.metrics.first_token import refusal_log_odds
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import EncodedPrompts, encode
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.reasoning import behind_reasoning
from cna_lens.results.layout import HOOK_SITE, Layout

Place = Literal[-1, "answer"]
"""Where canaries are read: at their last token, or where the answer begins behind the reasoning."""

STREAM_SITES: Final = ("hook_attn_out", "hook_mlp_out", "hook_resid_post")


@dataclass(frozen=True, eq=False)
class Measurement:
    """Activations at the last token of each canary, and the log-odds of a refusal.

    Behind the model's own reasoning, if that was asked for.

    Attributes:
        n_harmful: the number of harmful canaries, which come first.
        layout: the layout of the neurons.
        neurons: the inputs to the down projections.
        attention: the output of each attention, which is added to the residual stream.
        mlp: the output of each MLP, which is added to it.
        stream: the residual stream after each block.
        log_odds: the log-odds that the first token of the answer opens a refusal, in nats.
        encoded: the canaries as token ids, with the hash of the chat template.
    """

    n_harmful: int
    layout: Layout
    neurons: Float[Tensor, "canary neuron"]
    attention: Float[Tensor, "layer canary d_model"]
    mlp: Float[Tensor, "layer canary d_model"]
    stream: Float[Tensor, "layer canary d_model"]
    log_odds: Float64[Tensor, " canary"]
    encoded: EncodedPrompts

    def of_canaries(self, rows: Int64[Tensor, " canary"]) -> Measurement:
        """The measurement of some canaries: as many harmful ones as before, and these first."""
        return replace(
            self,
            neurons=self.neurons[rows],
            attention=self.attention[:, rows],
            mlp=self.mlp[:, rows],
            stream=self.stream[:, rows],
            log_odds=self.log_odds[rows],
        )


def between_kinds(values: Float[Tensor, "*axes"], n_harmful: int, dim: int = -1) -> Tensor:
    """The mean over harmful canaries minus the mean over benign canaries.

    >>> between_kinds(torch.tensor([3.0, 5.0, 1.0]), n_harmful=2)
    tensor(3.)

    Args:
        values: values of each canary, the harmful ones first.
        n_harmful: the number of harmful canaries.
        dim: the axis of the canaries.
    """
    harmful, benign = values.tensor_split([n_harmful], dim)
    return harmful.mean(dim) - benign.mean(dim)


def measure(
    model: HookedModel,
    canaries: Canaries,
    *,
    position: Place = -1,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Measurement:
    """Run the canaries: one pass for the activations, one for the log-odds.

    At position "answer", the model's reasoning about each canary is generated before.

    Raises:
        InputError: a canary does not fit the context, or its reasoning does not end.
        ModelError: the neurons of the model cannot be reached.
        ActivationError: an activation is infinite or not a number.
    """
    if position not in get_args(Place):
        raise InputError(f"position is {position!r}, expected -1 or 'answer'")
    encoded = encode(model, canaries.prompts, name="canaries")
    if position == "answer":
        named = {"canaries": (canaries.prompts, encoded)}
        (encoded,) = behind_reasoning(
            model, named, "auto", batch_size=batch_size, progress=progress
        )
    reader = Reader(model, -1, batch_size, progress, site=(HOOK_SITE, *STREAM_SITES))
    kept = _Kept()
    reader.read([(encoded, kept)])
    layout, neurons, (attention, mlp, stream) = kept.sites()
    return Measurement(
        len(canaries.harmful),
        layout,
        neurons,
        attention,
        mlp,
        stream,
        torch.tensor(refusal_log_odds(model, encoded.ids), dtype=torch.float64),
        encoded,
    )


class _Kept:
    """Collects activations on the CPU in float32."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._read: list[Tensor] = []
        self._layout = Layout(())

    def update(
        self,
        rows: Sequence[int],
        activations: Float[Tensor, "prompt neuron"],
        layout: Layout,
        route_weights: Float[Tensor, "prompt mlp"] | None = None,  # noqa: ARG002
    ) -> None:
        """Add a batch."""
        self._rows.extend(rows)
        self._read.append(activations.float().cpu())
        self._layout = layout

    def sites(self) -> tuple[Layout, Tensor, tuple[Tensor, ...]]:
        """The layout of the neurons, their activations, and those of the other sites."""
        n_layers = self._layout.n_layers // (1 + len(STREAM_SITES))
        widths = self._layout.widths
        layout = Layout(widths[:n_layers], self._layout.experts[:n_layers])
        whole = torch.cat(self._read)[torch.tensor(self._rows).argsort()]
        neurons, rest = whole[:, : layout.n_neurons], whole[:, layout.n_neurons :]
        layers = torch.split(rest, list(widths[n_layers:]), dim=1)
        nothing = torch.zeros(len(whole), max(widths[n_layers:]))
        vectors = torch.stack([layer if layer.shape[1] else nothing for layer in layers])
        return layout, neurons, vectors.split(n_layers)
