"""Down projections: what neurons are multiplied with, and how many neurons that makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import Tensor, nn

from cna_lens.experts import SHARED_PARTS, experts_of
from cna_lens.neurons import MLP, Experts
from cna_lens.sites import HookedModel, is_bridge, neuron_sites
from cna_lens.types import Layout


def layout_of(model: HookedModel) -> Layout | None:
    """The model's neurons, before it has run; None where a layer's width cannot be told."""
    widths: list[int] = []
    experts: list[Experts] = []
    for site in neuron_sites(model):
        projection = None if site.dense is None else down_projection(model, MLP(site.layer))
        if site.dense is not None and projection is None:
            return None
        experts.append(Experts(0, 0) if site.experts is None else site.experts.shape)
        dense = 0 if projection is None else projection.width
        widths.append(dense + experts[-1].count * experts[-1].width)
    return Layout(tuple(widths), tuple(experts))


@dataclass(frozen=True)
class DownProjection:
    """The matrix that an MLP's neurons are multiplied with.

    Attributes:
        parameter: the parameter, or the one that holds it for all experts.
        neuron_dim: the dimension of the matrix that neurons lie on, 1 for nn.Linear's
            [d_model, d_mlp], 0 for the [d_mlp, d_model] of GPT-2 and HookedTransformer.
        expert: which of the parameter's matrices it is; None where it is the parameter.
    """

    parameter: Tensor
    neuron_dim: Literal[0, 1]
    expert: int | None = None

    @property
    def weight(self) -> Tensor:
        """The matrix, in the parameter's memory."""
        return self.parameter if self.expert is None else self.parameter[self.expert]

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.weight.shape[self.neuron_dim]


def down_projection(model: HookedModel, mlp: MLP) -> DownProjection | None:
    """The down projection of one MLP, None where it cannot be told which parameter that is."""
    module = getattr(cast("Any", model).blocks[mlp.layer], "mlp", None)
    if mlp.expert is not None:
        return _expert_projection(module, mlp.expert)
    if is_bridge(model):
        module = next(
            (part for name in SHARED_PARTS if (part := getattr(module, name, None))), module
        )
    if isinstance(w_out := getattr(module, "W_out", None), nn.Parameter):
        return DownProjection(w_out, 0)
    # A layer without experts, in a model whose other layers have them, calls it dense_out.
    out = getattr(module, "out", None) or getattr(module, "dense_out", None)
    return _linear_projection(getattr(out, "original_component", None))


def _expert_projection(module: Any, expert: int) -> DownProjection | None:
    experts = experts_of(module)
    if isinstance(experts, nn.ModuleList):
        return _linear_projection(experts[expert].W_out)
    if experts is None:
        return None
    return DownProjection(experts.down_proj, 0 if experts.is_transposed else 1, expert)


def _linear_projection(linear: Any) -> DownProjection | None:
    weight = getattr(linear, "weight", None)
    if weight is None or weight.ndim != 2:
        return None
    if isinstance(linear, nn.Linear):
        return DownProjection(weight, 1)
    if type(linear).__name__ == "Conv1D":
        return DownProjection(weight, 0)
    return None
