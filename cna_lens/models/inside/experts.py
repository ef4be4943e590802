"""The routed experts of one layer: their computation, and whether it can be reached.

Transformers keeps the experts of a layer as one module with three-dimensional weights, and runs it
with an implementation for the hardware. Its convention (`transformers.integrations.moe.
use_experts_implementation`) fixes the layout of the weights for all models; a module that does not
follow it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cna_lens.results.neurons import Experts

ROUTER_PARTS = frozenset({"gate", "router"})
SHARED_PARTS = ("shared_experts", "shared_expert")
SHARED_GATE = "shared_expert_gate"


@dataclass(frozen=True)
class FusedExperts:
    """The routed experts of one layer of a Hugging Face model.

    Attributes:
        module: called with the hidden states [token, d_model], and each token's experts and route
            weights [token, slot].
    """

    module: Any

    @property
    def shape(self) -> Experts:
        """How many experts there are, and how wide each is."""
        weight = self.module.down_proj
        return Experts(weight.shape[0], weight.shape[1 if self.module.is_transposed else 2])

    def activations(
        self, hidden: Float[Tensor, "token d_model"], expert: int
    ) -> Float[Tensor, "token d_mlp"]:
        """Compute the input of one expert's down projection, for the tokens routed to it."""
        module, name = self.module, _up_projection(self.module)
        weight = getattr(module, name)[expert]
        bias = getattr(module, f"{name}_bias")[expert] if self._has_bias else None
        projected = nn.functional.linear(hidden, weight.T if module.is_transposed else weight, bias)
        return module._apply_gate(projected) if name == "gate_up_proj" else module.act_fn(projected)

    @property
    def _has_bias(self) -> bool:
        return getattr(self.module, "has_bias", False)

    def written(
        self, activations: Float[Tensor, "token d_mlp"], expert: int
    ) -> Float[Tensor, "token d_model"]:
        """Multiply activations with the down projection; columns of zeros are left out.

        At least in float32, since the result is the small difference of two outputs.
        """
        columns = (activations != 0).any(0).nonzero().squeeze(1)
        weight = self.module.down_proj[expert]
        rows = weight[columns] if self.module.is_transposed else weight[:, columns].T
        precise = torch.promote_types(activations.dtype, torch.float32)
        return activations[:, columns].to(precise) @ rows.to(precise)

    def bias(self, expert: int) -> Float[Tensor, " d_model"] | float:
        """Give the bias of one expert's down projection, 0 without one."""
        return self.module.down_proj_bias[expert] if self._has_bias else 0.0


@dataclass(frozen=True)
class HookedExperts:
    """The routed experts of one layer of a HookedTransformer, each with a hook point of its own.

    Attributes:
        module: the layer's MLP.
        layer: which layer.
    """

    module: Any
    layer: int

    @property
    def shape(self) -> Experts:
        """How many experts there are, and how wide each is."""
        return Experts(len(self.module.experts), self.module.experts[0].W_out.in_features)

    @property
    def normalises(self) -> bool:
        """Whether the route weights of each token are scaled to sum to 1."""
        return bool(getattr(self.module.cfg, "norm_topk_prob", False))


def experts_of(layer_mlp: object) -> Any:
    """Find the module of the routed experts in a layer's MLP, unwrapped; None without one."""
    return unwrapped(getattr(unwrapped(layer_mlp), "experts", None))


def unwrapped(component: object) -> Any:
    """Give the Hugging Face module inside a bridge's component."""
    while isinstance(inner := getattr(component, "original_component", None), nn.Module):
        component = inner
    return component


def why_unreachable(layer_mlp: object) -> str | None:
    """Say why the neurons of a layer's experts cannot be reached; None where they can."""
    block = unwrapped(layer_mlp)
    experts = experts_of(layer_mlp)
    if experts is None:
        return f"{type(block).__name__} has no part 'experts'"
    if reason := _why_unknown(experts):
        return f"its {type(experts).__name__} {reason}"
    known = {"experts", SHARED_GATE, *ROUTER_PARTS, *SHARED_PARTS}
    for name, part in block.named_children():
        if name not in known and any(True for _ in unwrapped(part).parameters()):
            return f"{type(block).__name__} has a part {name!r} beside its experts"
    return None


def _why_unknown(experts: Any) -> str | None:
    if not hasattr(experts, "_apply_gate") or not hasattr(experts, "is_transposed"):
        return "is not run through Transformers' registry of expert implementations"
    if getattr(experts, "has_post_expert_norm", False):
        return "normalises the output of each expert"
    if getattr(experts, "_is_expert_parallel", False):
        return "is spread over several processes"
    for name in (_up_projection(experts), "down_proj"):
        weight = getattr(experts, name, None)
        if not isinstance(weight, nn.Parameter) or not weight.is_floating_point():
            return f"keeps {name} quantised"
        if weight.ndim != 3:
            return f"keeps {name} in another shape than [expert, out, in]"
        if weight.device.type == "meta":
            return "is offloaded"
    return None


def _up_projection(experts: Any) -> str:
    return "gate_up_proj" if getattr(experts, "has_gate", True) else "up_proj"
