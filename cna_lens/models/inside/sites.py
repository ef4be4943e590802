"""Sites: the hook points of a model's MLP neurons.

A model is anything with TransformerLens's hooks: a TransformerBridge (4.x, 3.9) or a
HookedTransformer (3.9). Features are looked up on the model, never inferred from its class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from cna_lens.errors import ModelError
from cna_lens.models.hooked_model import HookedModel, check_model, is_bridge, model_name
from cna_lens.models.inside.experts import (
    SHARED_GATE,
    SHARED_PARTS,
    FusedExperts,
    HookedExperts,
    experts_of,
    unwrapped,
    why_unreachable,
)
from cna_lens.results.layout import HOOK_SITE, Layout
from cna_lens.results.neurons import MLP

Site = Literal[
    "mlp.hook_post", "hook_attn_out", "hook_mlp_out", "hook_resid_pre", "hook_resid_post"
]
"""Where activations are read: at the neurons, or at a block's input and outputs [d_model]."""

EXPERT_HOOK = re.compile(r"blocks\.\d+\.mlp\.(experts\.\d+|shared_experts)\.hook_post")


def hook_name(mlp: MLP | int, layout: Layout | None = None) -> str:
    """Give the name of the hook point of an MLP's neurons.

    Experts have the names of TransformerLens's HookedTransformer. `expert_hooks` gives a bridge
    these hook points, and those of shared experts, whose name differs between models.

    >>> hook_name(3)
    'blocks.3.mlp.hook_post'
    >>> layout = Layout((10,), experts=(Experts(2, 3),))
    >>> hook_name(MLP(0), layout), hook_name(MLP(0, 1), layout)
    ('blocks.0.mlp.shared_experts.hook_post', 'blocks.0.mlp.experts.1.hook_post')

    Args:
        mlp: a layer, or one MLP.
        layout: the model's; without one, every layer is dense.
    """
    layer, expert = MLP(mlp) if isinstance(mlp, int) else mlp
    if expert is not None:
        return f"blocks.{layer}.mlp.experts.{expert}.hook_post"
    if layout is not None and layout.has_experts(layer):
        return f"blocks.{layer}.mlp.shared_experts.hook_post"
    return f"blocks.{layer}.{HOOK_SITE}"


def is_expert_hook(name: str) -> bool:
    """Whether `hook_name` gives this name to routed or shared experts.

    >>> is_expert_hook("blocks.0.mlp.experts.1.hook_post"), is_expert_hook("blocks.0.mlp.hook_post")
    (True, False)
    """
    return bool(EXPERT_HOOK.fullmatch(name))


@dataclass(frozen=True)
class LayerSites:
    """Where the neurons of one layer are.

    Attributes:
        layer: the layer's number.
        dense: the hook point of the neurons that every token passes: of a dense MLP, or of the
            shared experts, under the model's own name; None where the layer has none.
        experts: the routed experts; None where the layer has none.
        shared_gate: its sigmoid weights the shared experts' output; None without a gate.
    """

    layer: int
    dense: str | None
    experts: FusedExperts | HookedExperts | None = None
    shared_gate: nn.Module | None = None

    @property
    def mlps(self) -> tuple[MLP, ...]:
        """The layer's MLPs, in the order of their neurons on the axis."""
        dense = () if self.dense is None else (MLP(self.layer),)
        count = 0 if self.experts is None else self.experts.shape.count
        return (*dense, *(MLP(self.layer, expert) for expert in range(count)))


def neuron_sites(model: HookedModel) -> tuple[LayerSites, ...]:
    """Find the neurons of each layer, with those of experts.

    Raises:
        ModelError: the model is remote, has no MLP, or has neurons that cannot be reached. No layer
            and no expert is skipped silently.
    """
    check_model(model)
    points = model.hook_dict
    sites = tuple(_layer_sites(model, layer, points) for layer in range(int(model.cfg.n_layers)))
    if not any(site.dense or site.experts for site in sites):
        raise ModelError(
            f"{model_name(model)} has no hook point {hook_name(0)}; cna_lens needs a decoder "
            "whose blocks have an MLP, loaded with TransformerLens"
        )
    return sites


def sparse_sites(model: HookedModel) -> tuple[LayerSites, ...]:
    """Find the neurons of the layers with experts.

    Raises:
        ModelError: as `neuron_sites`.
    """
    return tuple(site for site in neuron_sites(model) if site.experts is not None)


def mlp_hook_names(model: HookedModel) -> tuple[str | None, ...]:
    """Give the hook point of each layer of a dense model, None for a layer without an MLP.

    Raises:
        ModelError: as `neuron_sites`, and where a layer has experts.
    """
    sites = neuron_sites(model)
    if sparse := [site.layer for site in sites if site.experts is not None]:
        raise ModelError(
            f"layer {sparse[0]} of {model_name(model)} is a sparse mixture of experts, whose "
            "neurons cannot be used here; use collect, steer, or the rankings contrast, "
            "standardized and output_weighted"
        )
    return tuple(site.dense for site in sites)


def site_hook_names(model: HookedModel, site: Site) -> tuple[str | None, ...]:
    """Give the hook point of each layer at a site, None for a layer without one.

    A layer with experts has no hook point for its neurons; see `sparse_sites`.

    Raises:
        ModelError: no layer has a hook point there, or activations cannot be reached.
    """
    if site == "mlp.hook_post":
        return tuple(each.dense if each.experts is None else None for each in neuron_sites(model))
    check_model(model)
    names = [f"blocks.{layer}.{site}" for layer in range(int(model.cfg.n_layers))]
    if not any(name in model.hook_dict for name in names):
        raise ModelError(
            f"{model_name(model)} has no hook point {names[0]}; cna_lens needs a decoder loaded "
            "with TransformerLens"
        )
    return tuple(name if name in model.hook_dict else None for name in names)


def residual_writes(model: HookedModel) -> tuple[str, ...]:
    """Give the hook points of everything that is added to the residual stream.

    These are the first block's input, and the output of each attention and each MLP, after a norm
    on the output where there is one. `hook_resid_mid` does not serve: on a bridge it is only a copy
    of the stream, for the MLP's norm.

    Raises:
        ModelError: an addition has no hook point.
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
            f"{model_name(model)} has no hook point {missing[0]}, so this part of the residual "
            "stream cannot be reached; use a decoder with attention and an MLP in each block"
        )
    return names


def _layer_sites(model: HookedModel, layer: int, points: Mapping[str, Any]) -> LayerSites:
    mlp, name = f"blocks.{layer}.mlp.", hook_name(layer)
    block = cast("Any", model).blocks[layer]
    bridged = is_bridge(model)
    if bridged and name in points and points[name] is points.get(f"{mlp}hook_out"):
        return _sparse_sites(model, layer, points)
    if not bridged and any(other.startswith(f"{mlp}experts.") for other in points):
        return LayerSites(layer, None, HookedExperts(block.mlp, layer))
    if bridged and (hidden := _experts_elsewhere(block)):
        raise ModelError(
            f"layer {layer} of {model_name(model)} has experts at {hidden}, beside its MLP; their "
            "neurons cannot be reached; use another model"
        )
    if name in points:
        return LayerSites(layer, name)
    if any(other.startswith(mlp) for other in points):
        raise ModelError(
            f"layer {layer} of {model_name(model)} has an MLP without the hook point {name}; "
            "its neurons cannot be reached; use another model"
        )
    return LayerSites(layer, None)


def _sparse_sites(model: HookedModel, layer: int, points: Mapping[str, Any]) -> LayerSites:
    """Find the sites of a bridge's layer whose hook_post is only the output of all its experts."""
    mlp = cast("Any", model).blocks[layer].mlp
    inner = unwrapped(mlp)
    shared = next((part for part in SHARED_PARTS if hasattr(inner, part)), None)
    name = None if shared is None else f"blocks.{layer}.mlp.{shared}.hook_post"
    reason = why_unreachable(mlp)
    if reason is None and name is not None and name not in points:
        reason = f"the hook point {name} is missing"
    if reason is not None:
        raise ModelError(
            f"layer {layer} of {model_name(model)} is a sparse mixture of experts whose neurons "
            f"cannot be reached: {reason}; use another model"
        )
    gate = getattr(inner, SHARED_GATE, None)
    return LayerSites(
        layer, name, FusedExperts(experts_of(mlp)), None if gate is None else unwrapped(gate)
    )


def _experts_elsewhere(block: Any) -> str | None:
    names = (name for name, _ in unwrapped(block).named_modules())
    return next((name for name in names if name.rsplit(".", 1)[-1] == "experts"), None)
