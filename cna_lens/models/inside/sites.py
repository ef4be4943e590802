"""Sites: where a model's MLP neurons are, and whether they are what they seem.

A model is anything with TransformerLens's hooks: a TransformerBridge (4.x, 3.9) or a
HookedTransformer (3.9). Nothing here asks for a class; what is needed is looked up.
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
"""Where activations are read: the neurons, or d_model wide what a block reads and writes."""

EXPERT_HOOK = re.compile(r"blocks\.\d+\.mlp\.(experts\.\d+|shared_experts)\.hook_post")


def hook_name(mlp: MLP | int, layout: Layout | None = None) -> str:
    """The name of the hook point of an MLP's neurons.

    The experts' are those of TransformerLens's HookedTransformer. `expert_hooks` gives them to a
    bridge, together with those of the shared experts, which models spell differently.

    >>> hook_name(3)
    'blocks.3.mlp.hook_post'
    >>> layout = Layout((10,), experts=(Experts(2, 3),))
    >>> hook_name(MLP(0), layout), hook_name(MLP(0, 1), layout)
    ('blocks.0.mlp.shared_experts.hook_post', 'blocks.0.mlp.experts.1.hook_post')

    Args:
        mlp: a layer, or one MLP.
        layout: the model's; without one no layer is taken to have experts.
    """
    layer, expert = MLP(mlp) if isinstance(mlp, int) else mlp
    if expert is not None:
        return f"blocks.{layer}.mlp.experts.{expert}.hook_post"
    if layout is not None and layout.has_experts(layer):
        return f"blocks.{layer}.mlp.shared_experts.hook_post"
    return f"blocks.{layer}.{HOOK_SITE}"


def is_expert_hook(name: str) -> bool:
    """Whether `hook_name` gives this name to experts, shared or not.

    >>> is_expert_hook("blocks.0.mlp.experts.1.hook_post"), is_expert_hook("blocks.0.mlp.hook_post")
    (True, False)
    """
    return bool(EXPERT_HOOK.fullmatch(name))


@dataclass(frozen=True)
class LayerSites:
    """Where the neurons of one layer are.

    Attributes:
        layer: which layer.
        dense: the hook point of the neurons that every token passes: of a dense MLP, or of the
            shared experts, as the model spells it; None where the layer has none.
        experts: the routed experts; None where the layer has none.
        shared_gate: weighs the shared experts' output, by its sigmoid; None where nothing does.
    """

    layer: int
    dense: str | None
    experts: FusedExperts | HookedExperts | None = None
    shared_gate: nn.Module | None = None

    @property
    def mlps(self) -> tuple[MLP, ...]:
        """The layer's MLPs, in the order in which their neurons stand on the axis."""
        dense = () if self.dense is None else (MLP(self.layer),)
        count = 0 if self.experts is None else self.experts.shape.count
        return (*dense, *(MLP(self.layer, expert) for expert in range(count)))


def neuron_sites(model: HookedModel) -> tuple[LayerSites, ...]:
    """Where the neurons of each layer are, those of experts among them.

    Raises:
        ModelError: the model is remote, has no MLP, or has neurons that cannot be reached. No layer
            and no expert is skipped in silence.
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
    """Where the neurons of the layers with experts are.

    Raises:
        ModelError: as `neuron_sites`.
    """
    return tuple(site for site in neuron_sites(model) if site.experts is not None)


def mlp_hook_names(model: HookedModel) -> tuple[str | None, ...]:
    """The hook point of each layer of a dense model, None for a layer that has no MLP.

    Raises:
        ModelError: as `neuron_sites`, and where a layer has experts.
    """
    sites = neuron_sites(model)
    if sparse := [site.layer for site in sites if site.experts is not None]:
        raise ModelError(
            f"layer {sparse[0]} of {model_name(model)} is a sparse mixture of experts, whose "
            "neurons are not reached this way; collect, steer, and the rankings contrast, "
            "standardized and output_weighted reach them"
        )
    return tuple(site.dense for site in sites)


def site_hook_names(model: HookedModel, site: Site) -> tuple[str | None, ...]:
    """The hook point of each layer at a site, None for a layer that has none there.

    A layer with experts has no hook point for its neurons; see `sparse_sites`.

    Raises:
        ModelError: no layer has one, or the model's activations cannot be reached.
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
            "neurons cannot be reached, use another model"
        )
    if name in points:
        return LayerSites(layer, name)
    if any(other.startswith(mlp) for other in points):
        raise ModelError(
            f"layer {layer} of {model_name(model)} has an MLP without the hook point {name}; "
            "its neurons cannot be reached"
        )
    return LayerSites(layer, None)


def _sparse_sites(model: HookedModel, layer: int, points: Mapping[str, Any]) -> LayerSites:
    """Of a bridge's layer whose hook_post is no more than the output of all its experts."""
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
