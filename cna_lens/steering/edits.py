"""What steering does to an activation: a new tensor each time, never an edit in place.

Each is called as TransformerLens calls a hook, with the activation and its hook point.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cna_lens.errors import CircuitMismatchError, ModelError, VectorMismatchError
from cna_lens.models.inside.routing import routed_to


class Scale:
    """Multiplies some neurons of one layer."""

    def __init__(self, width: int, indices: Sequence[int], multiplier: float) -> None:
        """Take the layer's width, the neurons' places in it and what they are multiplied with."""
        self.width = width
        self.factors = torch.ones(width, dtype=torch.float64)
        self.factors[list(indices)] = multiplier

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """The activations, the neurons' multiplied."""
        check_width(activation, self.width, hook)
        if self.factors.device != activation.device or self.factors.dtype != activation.dtype:
            self.factors = self.factors.to(activation)
        return activation * self.factors


class Pull:
    """Moves some neurons of one layer towards values; with strength 1 they are set to them."""

    def __init__(
        self,
        width: int,
        indices: Sequence[int],
        values: Float64[Tensor, " n"],
        strength: float = 1.0,
    ) -> None:
        """Take the layer's width, the neurons' places in it, their values and the strength."""
        self.width = width
        self.indices = torch.tensor(indices)
        self.values = values
        self.strength = strength

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """The activations, the neurons' moved."""
        check_width(activation, self.width, hook)
        return pulled(activation, self.indices, self.values, self.strength)


class PullRouted(Pull):
    """Moves some neurons of one expert towards values that count the route weight.

    What the expert's output is multiplied with is divided out again, so that what reaches the
    output is the value.
    """

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """The activations of the tokens that are routed here, the neurons' moved."""
        check_width(activation, self.width, hook)
        routed = routed_to(hook)
        if routed is None:
            raise ModelError(
                f"{getattr(hook, 'name', 'a hook point')} does not tell the route weights, without "
                "which an expert's neurons cannot be set; do so within cna_lens.expert_hooks(model)"
            )
        weights = routed.weights.to(activation).view(*activation.shape[:-1], 1)
        reaches = weights != 0
        values = self.values.to(activation) / weights.where(reaches, 1.0)
        moved = pulled(activation, self.indices, values, self.strength)
        return torch.where(reaches, moved, activation)


def pulled(
    activation: Float[Tensor, "*tokens d_mlp"],
    indices: Tensor,
    values: Float[Tensor, "*some_tokens n"],
    strength: float,
) -> Float[Tensor, "*tokens d_mlp"]:
    r"""Some neurons moved towards values, $a + s (v - a)$, exactly v for s = 1."""
    indices = indices.to(activation.device)
    changed = activation.clone()
    old = activation[..., indices]
    changed[..., indices] = torch.lerp(old, values.to(old).expand_as(old), strength)
    return changed


class AddVector:
    """Adds a vector to everything that passes a hook point."""

    def __init__(self, vector: Float64[Tensor, " d_model"]) -> None:
        """Take the vector."""
        self.vector: Tensor = vector

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """The activations with the vector added."""
        _check_d_model(activation, self.vector, hook)
        if self.vector.device != activation.device or self.vector.dtype != activation.dtype:
            self.vector = self.vector.to(activation)
        return activation + self.vector


class EraseDirection:
    """Takes away a share of the component along a direction."""

    def __init__(self, unit: Float64[Tensor, " d_model"], strength: float = 1.0) -> None:
        """Take the direction, of length 1, and the share."""
        self.unit: Tensor = unit
        self.strength = strength

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """The activations with less, or nothing, along the direction."""
        _check_d_model(activation, self.unit, hook)
        # A product in half precision would leave a hundredth of the component behind.
        precise = torch.promote_types(activation.dtype, torch.float32)
        if self.unit.device != activation.device or self.unit.dtype != precise:
            self.unit = self.unit.to(activation.device, precise)
        x = activation.to(precise)
        along = (x @ self.unit)[..., None]
        return (x - self.strength * along * self.unit).to(activation.dtype)


def check_width(activation: Tensor, width: int, hook: Any) -> None:
    """Raise CircuitMismatchError unless a hook point has as many neurons as the circuit's layer."""
    if activation.shape[-1] != width:
        raise CircuitMismatchError(
            f"{getattr(hook, 'name', 'a hook point')} holds {activation.shape[-1]} values for each "
            f"token, the circuit is of a model with {width} neurons there"
        )


def _check_d_model(activation: Tensor, vector: Tensor, hook: Any) -> None:
    if activation.shape[-1] != len(vector):
        raise VectorMismatchError(
            f"{getattr(hook, 'name', 'a hook point')} holds {activation.shape[-1]} values for each "
            f"token, the vector has {len(vector)}; find the vector on this model"
        )
