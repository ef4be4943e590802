"""Sites: where a model's MLP neurons are, and whether they are what they seem.

A model is anything with TransformerLens's hooks: a TransformerBridge (4.x, 3.9) or a
HookedTransformer (3.8.1 to 3.9). Nothing here asks for a class; what is needed is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard, cast, runtime_checkable

import torch
from torch import Tensor, nn

from cna_lens.errors import ModelError
from cna_lens.types import HOOK_SITE, Layout

Site = Literal["mlp.hook_post", "hook_mlp_out", "hook_resid_pre", "hook_resid_post"]
"""Where activations are read: the neurons, or d_model wide what the MLP or a block works on."""


@runtime_checkable
class HookedModel(Protocol):
    """What cna_lens asks of a model; TransformerBridge and HookedTransformer both have it."""

    cfg: Any
    tokenizer: Any
    hook_dict: Mapping[str, Any]

    def hooks(self, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Temporary hooks, gone when the context ends."""
        ...

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One forward pass."""
        ...


def hook_name(layer: int) -> str:
    """The name of a layer's hook point.

    >>> hook_name(3)
    'blocks.3.mlp.hook_post'
    """
    return f"blocks.{layer}.{HOOK_SITE}"


def mlp_hook_names(model: HookedModel) -> tuple[str | None, ...]:
    """The hook point of each layer, None for a layer that has no MLP.

    Raises:
        ModelError: the model is remote, has no such hook points, or has a layer whose neurons
            cannot be reached (a sparse mixture of experts). No layer is skipped in silence.
    """
    check_model(model)
    names = tuple(_layer_hook_name(model, layer) for layer in range(int(model.cfg.n_layers)))
    if not any(names):
        raise ModelError(
            f"{model_name(model)} has no hook point {hook_name(0)}; cna_lens needs a decoder "
            "whose blocks have an MLP, loaded with TransformerLens"
        )
    return names


def site_hook_names(model: HookedModel, site: Site) -> tuple[str | None, ...]:
    """The hook point of each layer at a site, None for a layer that has none there.

    Raises:
        ModelError: no layer has one, or the model's activations cannot be reached.
    """
    if site == "mlp.hook_post":
        return mlp_hook_names(model)
    check_model(model)
    names = [f"blocks.{layer}.{site}" for layer in range(int(model.cfg.n_layers))]
    if not any(name in model.hook_dict for name in names):
        raise ModelError(
            f"{model_name(model)} has no hook point {names[0]}; cna_lens needs a decoder loaded "
            "with TransformerLens"
        )
    return tuple(name if name in model.hook_dict else None for name in names)


def residual_writes(model: HookedModel) -> tuple[str, ...]:
    """The hook points of all that is ever added up in the residual stream.

    The first block's input, and what each attention and each MLP writes, after a norm on the output
    where there is one. `hook_resid_mid` would not do: on a bridge it is only a copy of the stream,
    which the MLP's norm reads.

    Raises:
        ModelError: something is written that has no hook point.
    """
    sites = ["hook_attn_out", "hook_mlp_out"]
    if getattr(model.cfg, "attn_only", False):
        sites.remove("hook_mlp_out")
    blocks = range(int(model.cfg.n_layers))
    written = [f"blocks.{layer}.{site}" for layer in blocks for site in sites]
    names = ("blocks.0.hook_resid_pre", *written)
    check_model(model)
    if missing := [name for name in names if name not in model.hook_dict]:
        raise ModelError(
            f"{model_name(model)} has no hook point {missing[0]}, so that what is written there to "
            "the residual stream cannot be reached; use a decoder with attention and an MLP in "
            "each block"
        )
    return names


def check_model(model: object) -> None:
    """Raise ModelError unless activations can be read and changed on this model."""
    if not isinstance(model, HookedModel):
        raise ModelError(
            f"a {type(model).__name__} is no TransformerLens model; load it with "
            "cna_lens.load_model(name), or wrap it: "
            "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer)"
        )
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"a {type(model).__name__} runs elsewhere, and its hooks can only read; "
            "load the model into this process with cna_lens.load_model(name)"
        )
    if model.training or getattr(getattr(model, "original_model", None), "training", False):
        raise ModelError("the model is in training mode (dropout is on); call model.eval() first")


def _layer_hook_name(model: HookedModel, layer: int) -> str | None:
    points = model.hook_dict
    name = hook_name(layer)
    mlp = f"blocks.{layer}.mlp."
    if name in points:
        if points[name] is points.get(f"{mlp}hook_out"):
            raise ModelError(
                f"{name} is the block's output, not its neurons: layer {layer} of "
                f"{model_name(model)} is a sparse mixture of experts, which cna_lens cannot "
                "read yet; use a dense model"
            )
        return name
    if any(other.startswith(f"{mlp}experts.") for other in points):
        raise ModelError(
            f"layer {layer} of {model_name(model)} is a sparse mixture of experts, which "
            "cna_lens cannot read yet; use a dense model"
        )
    if any(other.startswith(mlp) for other in points):
        raise ModelError(
            f"layer {layer} of {model_name(model)} has an MLP without the hook point {name}; "
            "its neurons cannot be reached"
        )
    return None


def model_name(model: HookedModel) -> str:
    """The name under which the model was loaded."""
    return str(getattr(model.cfg, "model_name", None) or type(model).__name__)


def is_bridge(model: HookedModel) -> bool:
    """Whether the model wraps a Hugging Face model."""
    return hasattr(model, "original_model")


def input_device(model: HookedModel) -> torch.device:
    """The device on which token ids are expected: that of the embedding."""
    return next(cast("nn.Module", model).parameters()).device


def layout_of(model: HookedModel) -> Layout | None:
    """The model's neurons, before it has run; None where a layer's width cannot be told."""
    widths: list[int] = []
    for layer, name in enumerate(mlp_hook_names(model)):
        projection = None if name is None else down_projection(model, layer)
        if name is not None and projection is None:
            return None
        widths.append(0 if projection is None else projection.width)
    return Layout(tuple(widths))


@dataclass(frozen=True)
class DownProjection:
    """The matrix that a layer's neurons are multiplied with.

    Attributes:
        weight: the parameter.
        neuron_dim: the dimension of `weight` that neurons lie on, 1 for nn.Linear's
            [d_model, d_mlp], 0 for the [d_mlp, d_model] of GPT-2 and HookedTransformer.
    """

    weight: Tensor
    neuron_dim: Literal[0, 1]

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.weight.shape[self.neuron_dim]


def down_projection(model: HookedModel, layer: int) -> DownProjection | None:
    """A layer's down projection, None where it is no plain matrix, as where it is quantised."""
    module = _projection_module(model, layer)
    if not is_bridge(model):
        w_out = getattr(module, "W_out", None)
        return DownProjection(w_out, 0) if isinstance(w_out, nn.Parameter) else None
    weight = getattr(module, "weight", None)
    if not _is_plain_matrix(weight):
        return None
    if isinstance(module, nn.Linear):
        return DownProjection(weight, 1)
    if type(module).__name__ == "Conv1D":
        return DownProjection(weight, 0)
    return None


def projection_kind(model: HookedModel, layer: int) -> str:
    """What a layer's down projection is, for messages: "Linear4bit with torch.uint8 weights"."""
    module = _projection_module(model, layer)
    weight = getattr(module, "weight", None)
    kind = f" with {weight.dtype} weights" if isinstance(weight, Tensor) else ""
    return f"{type(module).__name__}{kind}"


def _projection_module(model: HookedModel, layer: int) -> Any:
    mlp: Any = getattr(cast("Any", model).blocks[layer], "mlp", None)
    if not is_bridge(model):
        return mlp
    # Its W_out is made anew each time, and raises where weights are quantised.
    return getattr(getattr(mlp, "out", None), "original_component", None)


def _is_plain_matrix(weight: object) -> TypeGuard[Tensor]:
    """Whether the numbers of a weight are those it stands for, without scales beside them."""
    if not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter):
        return False
    return weight.ndim == 2 and weight.is_floating_point() and weight.element_size() > 1
