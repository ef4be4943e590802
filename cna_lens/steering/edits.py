"""The changes that steering makes to an activation: each returns a new tensor.

Each is called as TransformerLens calls a hook, with the activation and its hook point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from cna_lens.errors import CircuitMismatchError, ModelError, VectorMismatchError
from cna_lens.models.inside.routing import routed_to


class Copies:
    """A tensor, and its copies on other devices and in other precisions, each made once.

    They may take part in gradients, also those that are made in inference mode.
    """

    def __init__(self, whole: Tensor) -> None:
        """Keep the tensor itself, from which all copies are made."""
        with torch.inference_mode(mode=False):
            self.whole = whole.clone()
        self._made: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return the copy on a device, in a precision."""
        if (device, dtype) not in self._made:
            with torch.inference_mode(mode=False):
                self._made[device, dtype] = self.whole.to(device, dtype)
        return self._made[device, dtype]


class Scale:
    """Multiplies some neurons of one MLP."""

    def __init__(self, width: int, indices: Sequence[int], multiplier: float) -> None:
        """Take the MLP's width, the neurons' places in it, and the multiplier."""
        self.width = width
        factors = torch.ones(width, dtype=torch.float64)
        factors[list(indices)] = multiplier
        self.factors = Copies(factors)

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """Return the activations with the neurons multiplied."""
        check_width(activation, self.width, hook)
        # In half precision a factor of .999 would be 1.
        precise = torch.promote_types(activation.dtype, torch.float32)
        factors = self.factors.on(activation.device, precise)
        return (activation.to(precise) * factors).to(activation.dtype)


@dataclass(frozen=True)
class Pull:
    """Moves some neurons of one MLP towards values; with strength 1 sets them to the values.

    Attributes:
        width: the MLP's width.
        indices: the neurons' places in it.
        values: one for each of these neurons.
        strength: the share of the way.
    """

    width: int
    indices: Sequence[int]
    values: Float64[Tensor, " n"]
    strength: float = 1.0

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """Return the activations with the neurons moved."""
        check_width(activation, self.width, hook)
        return pulled(activation, self.indices, self.values, self.strength)


class PullRouted(Pull):
    """Moves some neurons of one expert towards values that include the route weight.

    The expert's output is multiplied with the route weight. The value is divided by it first, so
    that the value itself reaches the layer's output.
    """

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """Return the activations of the routed tokens with the neurons moved."""
        check_width(activation, self.width, hook)
        routed = routed_to(hook)
        if routed is None:
            raise ModelError(
                f"{_name(hook)} does not tell the route weights, without which an expert's neurons "
                "cannot be set; set them within cna_lens.expert_hooks(model)"
            )
        weights = routed.weights.to(activation).view(*activation.shape[:-1], 1)
        reaches = weights != 0
        values = self.values.to(activation) / weights.where(reaches, 1.0)
        moved = pulled(activation, self.indices, values, self.strength)
        return torch.where(reaches, moved, activation)


def pulled(
    activation: Float[Tensor, "*tokens d_mlp"],
    indices: Sequence[int],
    values: Float[Tensor, "*some_tokens n"],
    strength: float,
) -> Float[Tensor, "*tokens d_mlp"]:
    r"""Move some neurons towards values: $a + s (v - a)$, which is exactly v for s = 1."""
    places = torch.tensor(indices, device=activation.device)
    changed = activation.clone()
    old = activation[..., places]
    changed[..., places] = torch.lerp(old, values.to(old).expand_as(old), strength)
    return changed


@dataclass
class AddVector:
    """Adds a vector to every token at a hook point."""

    vector: Float64[Tensor, " d_model"]

    def __post_init__(self) -> None:
        """Prepare copies of the vector."""
        self._copies = Copies(self.vector)

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """Return the activations with the vector added."""
        _check_d_model(activation, self.vector, hook)
        return activation + self._copies.on(activation.device, activation.dtype)


@dataclass
class EraseDirection:
    """Removes the component along a direction, or a share of it.

    Attributes:
        unit: the direction, of length 1.
        strength: the share that is removed.
    """

    unit: Float64[Tensor, " d_model"]
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Prepare copies of the direction."""
        self._copies = Copies(self.unit)

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        """Return the activations with less along the direction, or nothing."""
        _check_d_model(activation, self.unit, hook)
        # A product in half precision would leave a hundredth of the component behind.
        precise = torch.promote_types(activation.dtype, torch.float32)
        unit = self._copies.on(activation.device, precise)
        x = activation.to(precise)
        along = rearrange(x @ unit, "... -> ... 1")
        return (x - self.strength * along * unit).to(activation.dtype)


def check_width(activation: Tensor, width: int, hook: Any) -> None:
    """Raise CircuitMismatchError unless a hook point has as many neurons as the circuit's MLP."""
    if activation.shape[-1] != width:
        raise CircuitMismatchError(
            f"{_name(hook)} holds {activation.shape[-1]} values for each token, the circuit is of "
            f"a model with {width} neurons there; find the circuit on this model"
        )


def _check_d_model(activation: Tensor, vector: Tensor, hook: Any) -> None:
    if activation.shape[-1] != len(vector):
        raise VectorMismatchError(
            f"{_name(hook)} holds {activation.shape[-1]} values for each token, the vector has "
            f"{len(vector)}; find the vector on this model"
        )


def _name(hook: Any) -> str:
    return getattr(hook, "name", "a hook point")
