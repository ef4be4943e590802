"""Down projections: the matrices that multiply neurons, and the number of neurons they imply."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from cna_lens.errors import ModelError
from cna_lens.models.hooked_model import HookedModel, is_bridge, model_name
from cna_lens.models.inside.experts import SHARED_PARTS, experts_of
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import MLP, Experts

_multiplying: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], bool]] = WeakKeyDictionary()
"""Of each layer that was tried: its weights and forward pass, and whether it only multiplies."""


def layout_of(model: HookedModel) -> Layout | None:
    """Count the model's neurons before it has run; None where a layer's width is unknown."""
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
    """The matrix that multiplies an MLP's neurons.

    Attributes:
        parameter: the matrix, or the parameter that holds the matrices of all experts.
        neuron_dim: the neurons' dimension of the matrix: 1 for nn.Linear's [d_model, d_mlp], 0 for
            the [d_mlp, d_model] of GPT-2 and HookedTransformer.
        expert: the index of the matrix in the parameter; None where the parameter is the matrix.
    """

    parameter: Tensor
    neuron_dim: Literal[0, 1]
    expert: int | None = None

    @property
    def weight(self) -> Tensor:
        """The matrix; it shares the parameter's memory."""
        return self.parameter if self.expert is None else self.parameter[self.expert]

    @property
    def width(self) -> int:
        """Number of neurons."""
        return self.weight.shape[self.neuron_dim]


def down_projection(model: HookedModel, mlp: MLP) -> DownProjection | None:
    """Find the down projection of one MLP; None where it is not a plain matrix.

    Weights may be quantised, or a layer may multiply by something else than its weights.
    """
    projection = projection_module(model, mlp)
    if isinstance(w_out := getattr(projection, "W_out", None), nn.Parameter):
        return DownProjection(w_out, 0) if _is_plain_matrix(w_out) else None
    if mlp.expert is not None and isinstance(
        down := getattr(projection, "down_proj", None), Tensor
    ):
        return DownProjection(down, 0 if projection.is_transposed else 1, mlp.expert)
    weight = getattr(projection, "weight", None)
    if not _is_plain_matrix(weight):
        return None
    if isinstance(projection, nn.Linear):
        found = DownProjection(weight, 1)
    elif type(projection).__name__ == "Conv1D":
        found = DownProjection(weight, 0)
    else:
        return None
    return found if _only_multiplies(projection, found) else None


def output_vectors(
    model: HookedModel, needed_by: str
) -> Iterator[Float64[Tensor, "neuron d_model"]]:
    """What one unit of each neuron's activation writes, for one MLP after the other.

    Args:
        model: the model.
        needed_by: the ranking that an error names.

    Raises:
        ModelError: a down projection cannot be read.
    """
    for _, projection in readable_projections(model, needed_by):
        yield projection.weight.detach().cpu().double().movedim(projection.neuron_dim, 0)


def readable_projections(
    model: HookedModel, needed_by: str
) -> Iterator[tuple[MLP, DownProjection]]:
    """Every MLP with its down projection, in the order of neurons.

    Args:
        model: the model.
        needed_by: the ranking that an error names.

    Raises:
        ModelError: a down projection cannot be read.
    """
    for site in neuron_sites(model):
        for mlp in site.mlps:
            projection = down_projection(model, mlp)
            if projection is None or projection.weight.is_meta:
                kind = "offloaded" if projection else f"a {projection_kind(model, mlp)}"
                raise ModelError(
                    f"the down projection of {mlp} of {model_name(model)} is {kind}; "
                    f"{needed_by} needs its numbers, use another ranking"
                )
            yield mlp, projection


def unembedding(model: HookedModel, needed_by: str) -> Float[Tensor, "d_model d_vocab"]:
    """The matrix that turns the last residual stream, behind its norm, into logits; no copy of it.

    Args:
        model: the model.
        needed_by: the ranking that an error names.

    Raises:
        ModelError: it cannot be read, or is as wide as another space than the residual stream.
    """
    part = cast("Any", model).unembed
    own = getattr(part, "original_component", None)
    weight = getattr(part, "W_U", None) if own is None else getattr(own, "weight", None)
    if not _is_plain_matrix(weight) or weight.is_meta:
        raise ModelError(
            f"the unembedding of {model_name(model)} is quantised or offloaded; {needed_by} needs "
            "its numbers, use another ranking"
        )
    found = weight.detach() if own is None else weight.detach().T
    d_model = int(model.cfg.d_model)
    if len(found) != d_model:
        raise ModelError(
            f"the unembedding of {model_name(model)} reads {len(found)} numbers, and its residual "
            f"stream has {d_model}, so that something stands between them; {needed_by} needs to "
            "read one from the other, use another ranking"
        )
    return found


def projection_kind(model: HookedModel, mlp: MLP) -> str:
    """Describe a down projection for messages: "Linear4bit with torch.uint8 weights"."""
    projection = projection_module(model, mlp)
    weight = getattr(projection, "weight", None)
    kind = f" with {weight.dtype} weights" if isinstance(weight, Tensor) else ""
    return f"{type(projection).__name__}{kind}"


def projection_module(model: HookedModel, mlp: MLP) -> Any:
    """Find the weights' module: a linear layer, all experts, or HookedTransformer's whole MLP."""
    module = getattr(cast("Any", model).blocks[mlp.layer], "mlp", None)
    if mlp.expert is not None:
        experts = experts_of(module)
        return experts[mlp.expert].W_out if isinstance(experts, nn.ModuleList) else experts
    if not is_bridge(model):
        return module
    shared = (part for name in SHARED_PARTS if (part := getattr(module, name, None)))
    module = next(shared, module)
    # A dense layer of a model with experts calls its projection dense_out. The MLP's own W_out is
    # made anew each time, and raises where weights are quantised.
    out = getattr(module, "out", None) or getattr(module, "dense_out", None)
    return getattr(out, "original_component", None)


def _only_multiplies(module: nn.Module, projection: DownProjection) -> bool:
    """Whether a layer multiplies its input by its weight, and does nothing else but add a bias.

    A layer with a forward pass of its own is called, since it may rotate its input, or round it.
    """
    from transformers.pytorch_utils import Conv1D

    weight = projection.weight
    known = type(module).forward in (nn.Linear.forward, Conv1D.forward)
    if (known and "forward" not in vars(module)) or not _has_numbers(weight):
        return True
    state = weight.data_ptr(), id(vars(module).get("forward"))
    if (tried := _multiplying.get(module)) is None or tried[0] != state:
        tried = _multiplying[module] = state, _multiplies(module, projection)
    return tried[1]


def _has_numbers(weight: Tensor) -> bool:
    """Whether every number has a place in memory, unlike those of a model of shapes alone."""
    size = weight.numel() * weight.element_size()
    return not weight.is_meta and weight.untyped_storage().nbytes() >= size


def _multiplies(module: nn.Module, projection: DownProjection) -> bool:
    """Call a layer on one vector, and compare what it gives with the product."""
    weight = projection.weight
    x = torch.arange(projection.width, device=weight.device).cos().to(weight.dtype)[None]
    with torch.no_grad(), _in_own_precision(weight.device.type):
        expected = x @ weight.movedim(projection.neuron_dim, 0)
        if isinstance(bias := getattr(module, "bias", None), Tensor):
            expected = expected + bias
        # Numbers that are not finite show nothing.
        if not bool(expected.isfinite().all()):
            return True
        try:
            error = (module.forward(x) - expected).double().norm()
        except torch.OutOfMemoryError:
            raise
        # Of a layer that cannot be called alone, nobody knows what it computes.
        except Exception:
            return False
    # Above the rounding of one product, and below any other computation of which the precision of
    # the weights tells.
    eps = torch.finfo(weight.dtype).eps
    allowed = 4 * eps if eps > 1e-6 else torch.finfo(torch.float32).eps ** 0.5
    return bool(error <= allowed * expected.double().norm())


def _in_own_precision(device: str) -> AbstractContextManager[Any]:
    mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if mixed else nullcontext()


def _is_plain_matrix(weight: object) -> TypeGuard[Tensor]:
    """Whether a weight is a floating-point matrix, without scales beside it."""
    if not isinstance(weight, Tensor) or type(weight) not in (Tensor, nn.Parameter):
        return False
    return weight.ndim == 2 and weight.is_floating_point() and weight.element_size() > 1
