"""Changes of weights for the length of a context."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from cna_lens.models import HookedModel

Change = Callable[[str, Tensor], Tensor | None]
WRITERS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
"""The matrices whose rows are the dimensions of the residual stream."""

EMBEDDING = "model.embed_tokens.weight"
"""Its columns are the dimensions of the residual stream."""


def weights_of(model: HookedModel) -> dict[str, nn.Parameter]:
    """A bridge's parameters by their names in Transformers."""
    module = cast("nn.Module", cast("Any", model).original_model)
    return {
        name.replace("._original_component", ""): parameter
        for name, parameter in module.named_parameters()
    }


def differing(weights: Mapping[str, Tensor], model: HookedModel) -> dict[str, Tensor]:
    """The given weights that differ from the model's."""
    own = weights_of(model)
    return {
        name: weight.detach() for name, weight in weights.items() if not weight.equal(own[name])
    }


@contextmanager
def edited(model: HookedModel, change: Change) -> Generator[HookedModel]:
    """Replace weights within the context, and restore them bit for bit.

    Args:
        model: a bridge.
        change: gives a weight's new value from its name and its value; None if it stays.
    """
    kept: list[tuple[nn.Parameter, Tensor]] = []
    try:
        with torch.no_grad():
            for name, parameter in weights_of(model).items():
                value = change(name, parameter)
                if value is not None:
                    kept.append((parameter, parameter.clone()))
                    parameter.copy_(value)
        yield model
    finally:
        with torch.no_grad():
            for parameter, original in kept:
                parameter.copy_(original)


def towards(others: Mapping[str, Tensor], share: float) -> Change:
    """Move weights a share of the way to other ones: 0 changes nothing, 1 replaces them."""

    def change(name: str, weight: Tensor) -> Tensor | None:
        other = others.get(name)
        return None if other is None else torch.lerp(weight, other.to(weight), share)

    return change


def exchanged(others: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> Change:
    """Replace the chosen entries by those of other weights."""

    def change(name: str, weight: Tensor) -> Tensor | None:
        if name not in chosen:
            return None
        return torch.where(chosen[name], others[name].to(weight), weight)

    return change


def plus(differences: Mapping[str, Tensor]) -> Change:
    """Add something to weights."""

    def change(name: str, weight: Tensor) -> Tensor | None:
        difference = differences.get(name)
        return None if difference is None else weight + difference.to(weight)

    return change


def without_direction(direction: Tensor, strength: float) -> Change:
    r"""Scale the output along a direction by $1 - \alpha$ in all matrices (arXiv 2406.11717)."""
    unit = direction / direction.norm()

    def strength_of(name: str) -> float:
        return strength if name.endswith(WRITERS) or name == EMBEDDING else 0.0

    return without_directions(unit[None], strength_of)


def without_directions(basis: Tensor, strength_of: Callable[[str], float]) -> Change:
    r"""Scale what matrices write along orthonormal directions by $1 - \alpha$.

    Args:
        basis: the directions, one in each row.
        strength_of: alpha of each weight by its name; those with 0 stay as they are.
    """

    def change(name: str, weight: Tensor) -> Tensor | None:
        strength, rows = strength_of(name), basis.to(weight)
        if not strength:
            return None
        if name == EMBEDDING:
            return weight - strength * (weight @ rows.T) @ rows
        return weight - strength * rows.T @ (rows @ weight)

    return change


def noisy(relative: float, seed: int) -> Change:
    """Add Gaussian noise to every matrix, with a share of its entries' standard deviation."""
    generator = torch.Generator().manual_seed(seed)

    def change(_: str, weight: Tensor) -> Tensor | None:
        if weight.ndim < 2:
            return None
        return weight + relative * weight.std() * torch.randn(weight.shape, generator=generator)

    return change


def rounded(dtype: torch.dtype) -> Change:
    """Round weights to another precision; computations keep their precision."""
    return lambda _, weight: weight.to(dtype).to(weight.dtype)


@contextmanager
def mlp_biases(model: HookedModel, biases: Mapping[int, Tensor]) -> Generator[HookedModel]:
    """Give down projections without a bias one, by layer: it is added to the MLP's output."""
    module = cast("nn.Module", cast("Any", model).original_model)
    projections = {
        layer: module.get_submodule(f"model.layers.{layer}.mlp.down_proj") for layer in biases
    }
    linear = {
        layer: cast("nn.Linear", getattr(projection, "original_component", projection))
        for layer, projection in projections.items()
    }
    try:
        for layer, projection in linear.items():
            bias = biases[layer].to(projection.weight)
            projection.bias = nn.Parameter(bias, requires_grad=False)
        yield model
    finally:
        for projection in linear.values():
            projection.bias = None


@contextmanager
def int8_linear(model: HookedModel) -> Generator[HookedModel]:
    """Quantise every linear layer but the last: int8 weights, and dynamic int8 activations."""
    module = cast("nn.Module", cast("Any", model).original_model)
    holders = [
        holder
        for name, holder in module.named_modules()
        if isinstance(holder._modules.get("_original_component"), nn.Linear) and name != "lm_head"
    ]
    plain = [cast("nn.Linear", holder._modules["_original_component"]) for holder in holders]
    try:
        for holder, linear in zip(holders, plain, strict=True):
            holder._modules["_original_component"] = _quantised(linear)
        yield model
    finally:
        for holder, linear in zip(holders, plain, strict=True):
            holder._modules["_original_component"] = linear


def _quantised(linear: nn.Linear) -> nn.Module:
    with warnings.catch_warnings():
        # torch announces that this function will move to torchao.
        warnings.simplefilter("ignore")
        alone = nn.Sequential(linear)
        return torch.ao.quantization.quantize_dynamic(alone, {nn.Linear}, dtype=torch.qint8)[0]
