"""Down projections: what neurons are multiplied with, and how many neurons that makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, cast

from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel, is_bridge
from cna_lens.models.inside.experts import SHARED_PARTS, experts_of
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import MLP, Experts


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
    """The down projection of one MLP, None where it is no plain matrix, as a quantised one."""
    projection = projection_module(model, mlp)
    if isinstance(w_out := getattr(projection, "W_out", None), nn.Parameter):
        return DownProjection(w_out, 0)
    if mlp.expert is not None and isinstance(
        down := getattr(projection, "down_proj", None), Tensor
    ):
        return DownProjection(down, 0 if projection.is_transposed else 1, mlp.expert)
    weight = getattr(projection, "weight", None)
    if not _is_plain_matrix(weight):
        return None
    if isinstance(projection, nn.Linear):
        return DownProjection(weight, 1)
    if type(projection).__name__ == "Conv1D":
        return DownProjection(weight, 0)
    return None


def projection_kind(model: HookedModel, mlp: MLP) -> str:
    """What a down projection is, for messages: "Linear4bit with torch.uint8 weights"."""
    projection = projection_module(model, mlp)
    weight = getattr(projection, "weight", None)
    kind = f" with {weight.dtype} weights" if isinstance(weight, Tensor) else ""
    return f"{type(projection).__name__}{kind}"


def projection_module(model: HookedModel, mlp: MLP) -> Any:
    """What holds the weights: a linear layer, all experts, or HookedTransformer's whole MLP."""
    module = getattr(cast("Any", model).blocks[mlp.layer], "mlp", None)
    if mlp.expert is not None:
        experts = experts_of(module)
        return experts[mlp.expert].W_out if isinstance(experts, nn.ModuleList) else experts
    if not is_bridge(model):
        return module
    shared = (part for name in SHARED_PARTS if (part := getattr(module, name, None)))
    module = next(shared, module)
    # A layer without experts, in a model whose other layers have them, calls it dense_out. The
    # MLP's own W_out is made anew each time, and raises where weights are quantised.
    out = getattr(module, "out", None) or getattr(module, "dense_out", None)
    return getattr(out, "original_component", None)


def _is_plain_matrix(weight: object) -> TypeGuard[Tensor]:
    """Whether the numbers of a weight are those it stands for, without scales beside them."""
    if not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter):
        return False
    return weight.ndim == 2 and weight.is_floating_point() and weight.element_size() > 1
