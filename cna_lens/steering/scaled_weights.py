"""Scale neurons by scaling their part of the down projection: no hook, no cost per token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.matching import Projections
from cna_lens.models.inside.projections import DownProjection, projection_kind
from cna_lens.models.inside.weights import editing
from cna_lens.results.circuit import Circuit


@contextmanager
def scaled_columns(
    model: HookedModel, circuit: Circuit, projections: Projections, multiplier: float
) -> Generator[None]:
    """Scale the neurons' part of each down projection in place, and restore it bit for bit."""
    with editing(model, circuit):
        saved: list[tuple[Tensor, Tensor, Tensor]] = []
        try:
            with torch.no_grad():
                for mlp, indices in circuit.by_mlp().items():
                    projection = cast("DownProjection", projections[mlp])
                    rows = projection.weight.t() if projection.neuron_dim else projection.weight
                    index = torch.tensor(indices, device=rows.device)
                    # Saved before the change, so that an interrupt between the two loses nothing.
                    saved.append((rows, index, rows[index]))
                    rows[index] = rows[index] * multiplier
            yield
        finally:
            with torch.no_grad():
                for rows, index, original in reversed(saved):
                    rows[index] = original


def obstacle_to_scaling(model: HookedModel, projections: Projections) -> str | None:
    """Say why these down projections cannot be scaled in place; None where they can."""
    # How many modules hold each parameter.
    uses = Counter(
        id(parameter)
        for module in cast("nn.Module", model).modules()
        for parameter in module.parameters(recurse=False)
    )
    for mlp, projection in projections.items():
        if projection is None:
            kind = projection_kind(model, mlp)
            return f"the down projection of {mlp} is no plain matrix (a {kind})"
        parameter = projection.parameter
        if type(parameter) is not nn.Parameter:
            return f"the down projection of {mlp} is parametrised"
        if parameter.device.type == "meta":
            return f"the down projection of {mlp} is offloaded"
        if uses[id(parameter)] > 1:
            return f"the down projection of {mlp} is shared with another module"
    return None
