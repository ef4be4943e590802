"""The scalings in force on a model's weights, and the weights as they were before.

Weights belong to all threads and to all contexts that are open, which may end in any order. So what
a neuron's weights were is kept here once, from the first scaling until the last one ends.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from cna_lens.errors import CnaLensWarning, ModelError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.paged_weights import paged_weights
from cna_lens.models.inside.projections import DownProjection, down_projection, projection_kind
from cna_lens.results.neurons import MLP, AnyNeuron

Columns = Int64[Tensor, " n"]
Written = Float[Tensor, "n d_model"]


@dataclass(eq=False)
class _Scaling:
    """What one context does to one down projection.

    Attributes:
        columns: the neurons, without those that somebody else has changed since.
        multiplier: their factor.
    """

    columns: Columns
    multiplier: float


class _Scaled:
    """One down projection with scaled neurons, and what these neurons wrote before."""

    def __init__(self, model: HookedModel, mlp: MLP, projection: DownProjection) -> None:
        self.model = model
        self.mlp = mlp
        self.projection = projection
        self.scalings: list[_Scaling] = []
        self.columns: Columns = torch.empty(0, dtype=torch.long)
        self.kept: Written = _rows(projection)[self.columns]

    def add(self, scaling: _Scaling) -> list[int]:
        """Scale the weights, and give the neurons that somebody else has changed before."""
        rows = _rows(self.projection)
        if rows.dtype != self.kept.dtype or rows.device != self.kept.device:
            raise ModelError(
                f"the model was moved from {self.kept.dtype} on {self.kept.device} to {rows.dtype} "
                f"on {rows.device} while another steer() scaled the weights of {self.mlp}; end "
                "that one first, or use via='hooks'"
            )
        known = scaling.columns[torch.isin(scaling.columns, self.columns)]
        changed = known[~self._as_left(self.projection, known, self.scalings)]
        self._disown(changed)
        new = scaling.columns[~torch.isin(scaling.columns, self.columns)]
        # Kept before the change, so that an interrupt between the two loses nothing.
        self.kept, self.columns = (
            torch.cat([self.kept, rows[new]]),
            torch.cat([self.columns, new]),
        )
        self.scalings.append(scaling)
        rows[scaling.columns] = self._scaled(scaling.columns, self.scalings)
        return changed.tolist()

    def remove(self, scaling: _Scaling) -> list[int]:
        """Take a scaling off the weights, and give the neurons that somebody else has changed.

        Those keep the weights that they have now.
        """
        if scaling not in self.scalings:
            return []
        columns, others = scaling.columns, [s for s in self.scalings if s is not scaling]
        changed = torch.zeros(len(columns), dtype=torch.bool)
        for projection in self._where_it_is_now():
            # An interrupt may have come before the weights were written.
            ours = self._as_left(projection, columns, self.scalings)
            ours |= self._as_left(projection, columns, others)
            if bool(ours.any()):
                rows = _rows(projection)
                rows[columns[ours]] = self._scaled(columns[ours], others).to(rows)
            changed |= ~ours
        lost = columns[changed]
        self.scalings = others
        self._disown(lost)
        return lost.tolist()

    def neurons(self) -> list[AnyNeuron]:
        """The neurons that are scaled."""
        return [self.mlp.neuron(column) for column in self.columns.tolist()]

    def _where_it_is_now(self) -> list[DownProjection]:
        """The matrix that was scaled, and one that took its place in the model since."""
        now = down_projection(self.model, self.mlp)
        if now is None or now.parameter is self.projection.parameter:
            return [self.projection]
        return [self.projection, now]

    def _as_left(
        self, projection: DownProjection, columns: Columns, scalings: Sequence[_Scaling]
    ) -> Bool[Tensor, " n"]:
        """Whether each neuron has the weights that these scalings give it."""
        rows = _rows(projection)
        if rows.device.type == "meta" or rows.shape[1] != self.kept.shape[1]:
            return torch.zeros(len(columns), dtype=torch.bool)
        found, expected = rows[columns], self._scaled(columns, scalings).to(rows)
        same = (found == expected) | (found.isnan() & expected.isnan())
        return same.all(1).cpu()

    def _scaled(self, columns: Columns, scalings: Sequence[_Scaling]) -> Written:
        """What the neurons write under some scalings, which apply in their order."""
        places = torch.full((self.projection.width,), -1)
        places[self.columns] = torch.arange(len(self.columns))
        written = self.kept[places[columns]]
        for scaling in scalings:
            here = torch.isin(columns, scaling.columns)
            written[here] = written[here] * scaling.multiplier
        return written

    def _disown(self, columns: Columns) -> None:
        """Leave some neurons to somebody else, and forget those that nothing scales any more."""
        for scaling in self.scalings:
            scaling.columns = scaling.columns[~torch.isin(scaling.columns, columns)]
        scaled = torch.cat([self.columns[:0], *(scaling.columns for scaling in self.scalings)])
        still = torch.isin(self.columns, scaled)
        self.kept, self.columns = self.kept[still], self.columns[still]


# By parameter and expert: two bridges may stand around one Hugging Face model.
_scaled: dict[tuple[int, int | None], _Scaled] = {}
_lock = threading.RLock()


@contextmanager
def scaled_weights(
    model: HookedModel,
    projections: Mapping[MLP, DownProjection],
    neurons: Mapping[MLP, Sequence[int]],
    multiplier: float,
) -> Generator[None]:
    """Scale what neurons write by their part of each down projection, while the context lasts.

    Contexts may overlap in any way: the multipliers of all that are open apply in the order in
    which they were opened. Neurons that none scales any more have their own weights back, bit for
    bit, also where the model was converted or moved meanwhile.

    Warns:
        CnaLensWarning: something else has changed the weights of these neurons within the context.
            They stay as they are.
    """
    changed: list[AnyNeuron] = []
    with ExitStack() as stack:
        stack.callback(_tell, changed)
        # Behind all changes, or another thread might cast the old weights again.
        stack.callback(torch.clear_autocast_cache)
        for mlp, indices in neurons.items():
            scaling = _Scaling(torch.tensor(indices), multiplier)
            key = id(projections[mlp].parameter), projections[mlp].expert
            stack.callback(_end, key, scaling, changed)
            _begin(key, model, mlp, projections[mlp], scaling, changed)
        torch.clear_autocast_cache()
        yield


def obstacle_to_scaling(
    model: HookedModel, projections: Mapping[MLP, DownProjection | None]
) -> str | None:
    """Say why these down projections cannot be scaled in place; None where they can."""
    # How many modules hold each parameter.
    uses = Counter(
        id(parameter)
        for module in cast("nn.Module", model).modules()
        for parameter in module.parameters(recurse=False)
    )
    if paged_weights(model) is not None:
        return (
            "the weights do not fit the memory and are read from disk, and pages that are written "
            "to would have to stay in memory"
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
        if parameter.is_inference():
            return f"the down projection of {mlp} was made in torch.inference_mode()"
        if uses[id(parameter)] > 1:
            return f"the down projection of {mlp} is shared with another module"
    return None


def scaled_neurons(model: HookedModel) -> frozenset[AnyNeuron]:
    """Give the neurons whose weights are scaled by a context that is open, in any thread."""
    with _lock:
        if not _scaled:
            return frozenset()
        own = {id(parameter) for parameter in cast("nn.Module", model).parameters()}
        return frozenset(
            neuron
            for (parameter, _), scaled in _scaled.items()
            if scaled.model is model or parameter in own
            for neuron in scaled.neurons()
        )


def _begin(
    key: tuple[int, int | None],
    model: HookedModel,
    mlp: MLP,
    projection: DownProjection,
    scaling: _Scaling,
    changed: list[AnyNeuron],
) -> None:
    with _lock, torch.no_grad():
        if key not in _scaled:
            _scaled[key] = _Scaled(model, mlp, projection)
        changed += map(mlp.neuron, _scaled[key].add(scaling))


def _end(key: tuple[int, int | None], scaling: _Scaling, changed: list[AnyNeuron]) -> None:
    with _lock, torch.no_grad():
        if (scaled := _scaled.get(key)) is None:
            return
        changed += map(scaled.mlp.neuron, scaled.remove(scaling))
        if not scaled.scalings:
            del _scaled[key]


def _tell(changed: Sequence[AnyNeuron]) -> None:
    if changed:
        warnings.warn(
            f"something else changed the weights of {len(changed)} neurons, {min(changed)} among "
            "them, while steer() scaled them; they stay as they are now, so the multiplier may "
            "still be in them; change weights outside of steer(), or use via='hooks'",
            CnaLensWarning,
            stacklevel=2,
        )


def _rows(projection: DownProjection) -> Written:
    """The matrix with a row for what each neuron writes; it shares the parameter's memory."""
    return projection.weight.t() if projection.neuron_dim else projection.weight
