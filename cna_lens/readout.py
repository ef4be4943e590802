"""What the hooks of one forward pass read: each layer's site at one token of each prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import ActivationError, ModelError
from cna_lens.expert_readout import ExpertReadout
from cna_lens.results.layout import Layout


class Reading(NamedTuple):
    """What one batch gives.

    Attributes:
        activations: of each neuron, with its expert's route weight.
        layout: which neuron stands where.
        route_weights: of each MLP of `layout.mlps`, 0 where a prompt's token is not routed to it;
            None for a model without experts.
    """

    activations: Float[Tensor, "prompt neuron"]
    layout: Layout
    route_weights: Float[Tensor, "prompt mlp"] | None = None


class EverythingRead(Exception):  # noqa: N818 (it ends a forward pass early, nothing failed)
    """Every layer has been read: what the model would still compute is not needed."""


class Readout:
    """The hooks of one forward pass, and what they read."""

    def __init__(
        self,
        names: tuple[str | None, ...],
        rows: Tensor,
        columns: Tensor,
        shape: tuple[int, ...],
        experts: ExpertReadout,
    ) -> None:
        """Read the token at each row and column, in tensors that begin with `shape`."""
        self.names = names
        self.experts = experts
        self.rows = rows
        self.columns = columns
        self.shape = shape
        self.read: dict[int, Float[Tensor, "prompt d_mlp"]] = {}

    def fwd_hooks(self) -> list[tuple[str, Callable[..., None]]]:
        """Each layer's hook, with the name of its hook point."""
        dense = [
            (name, partial(self._read, layer=layer))
            for layer, name in enumerate(self.names)
            if name is not None
        ]
        return [*dense, *self.experts.fwd_hooks()]

    def _read(self, activation: Tensor, hook: Any, *, layer: int) -> None:  # noqa: ARG002
        if layer in self.read:
            raise ModelError(f"{self.names[layer]} fired twice in one forward pass")
        if tuple(activation.shape[:-1]) != self.shape:
            raise ModelError(
                f"{self.names[layer]} holds a tensor of shape {tuple(activation.shape)}, expected "
                f"[batch, pos, width] with batch and pos {self.shape}"
            )
        # Indexing copies, so the activations of the other positions are freed.
        device = activation.device
        self.read[layer] = activation[self.rows.to(device), self.columns.to(device)]
        all_read = len(self.read) == sum(name is not None for name in self.names)
        if all_read and not self.experts.sites:
            raise EverythingRead

    def reading(self) -> Reading:
        """What was read, all layers' neurons on one axis.

        Raises:
            ModelError: a hook point never fired.
        """
        missing = [name for layer, name in enumerate(self.names) if name and layer not in self.read]
        if missing:
            raise ModelError(f"these hook points never fired: {', '.join(missing)}")
        sparse = self.experts.layers()
        self.read |= {layer: activations for layer, (activations, _) in sparse.items()}
        layers = [self.read.get(layer) for layer in range(len(self.names))]
        widths = tuple(0 if layer is None else layer.shape[-1] for layer in layers)
        layout = Layout(widths, self.experts.shapes(len(self.names)))
        present = [layer for layer in layers if layer is not None]
        # MPS has no float64, in which the sums are kept.
        device = "cpu" if present[0].device.type == "mps" else present[0].device
        activations = torch.cat([layer.to(device) for layer in present], dim=-1)
        if not sparse:
            return Reading(activations, layout)
        weights = [
            sparse[layer][1].float().cpu() if layer in sparse else torch.ones(len(activations), 1)
            for layer, width in enumerate(widths)
            if width
        ]
        return Reading(activations, layout, torch.cat(weights, dim=-1))


def check_finite(activations: Tensor, layout: Layout, model: str) -> None:
    """Raise ActivationError where an activation is infinite or not a number.

    Args:
        activations: all layers' neurons on one axis.
        layout: which layer each is of.
        model: the model's name.
    """
    finite = torch.isfinite(activations).all(0)
    if bool(finite.all()):
        return
    broken = sorted(set(layout.layer_of[~finite.cpu()].tolist()))
    raise ActivationError(
        f"{model} gives infinite or not-a-number activations in layer "
        f"{', '.join(map(str, broken))}; load it in float32 or bfloat16, and check its weights"
    )
