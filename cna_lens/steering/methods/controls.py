"""Random controls: other neurons or directions that resemble those of a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar, cast, get_args

import torch
from jaxtyping import Float64
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.errors import InputError
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import AnyNeuron
from cna_lens.results.provenance import Provenance
from cna_lens.steering.methods.caa import VectorAddition
from cna_lens.steering.methods.directional import DirectionalAblation

Match = Literal["layer", "magnitude"]
Method = TypeVar("Method", VectorAddition, DirectionalAblation)

ALIKE = 10
"""A neuron is drawn from this many of the nearest magnitude."""


def matched_random(
    circuit: Circuit,
    seed: int = 0,
    *,
    match: Match = "layer",
    stats: ActivationStats | None = None,
) -> Circuit:
    r"""Draw as many random neurons in each layer as the circuit has there, none of its own.

    The effect of ablating these is the effect of ablating any neurons of these layers. Only the
    effect of the circuit beyond it is the circuit's own. An expert's neurons are matched by others
    of the same expert, to which the same tokens are routed.

    With `match="magnitude"` each drawn neuron is also about as active as the neuron it stands for.
    It is drawn from the 10 neurons of the layer or expert that are nearest by the root mean square
    of the activation,

    $$\sqrt{\bar{a}_{l,j}^2 + \mathrm{var}(a_{l,j})},$$

    outside the circuit and not drawn yet, the circuit's most active neurons first. If a circuit
    holds a layer's most active neurons, the nearest others are less active: compare the magnitudes
    before you rely on this control.

    >>> circuit = Circuit((Neuron(0, 1), Neuron(1, 2)), (1.0, -1.0), Layout((4, 4)))
    >>> control = matched_random(circuit, seed=0)
    >>> [neuron.layer for neuron in control], set(control) & set(circuit)
    ([0, 1], set())

    Args:
        circuit: the circuit to match.
        seed: the seed of the draw.
        match: match by "layer" alone, or by layer and "magnitude".
        stats: statistics of the activations, from `collect`, for `match="magnitude"`.

    Raises:
        InputError: a layer has too few neurons outside the circuit, or the statistics are missing
            or of a model of another shape.
    """
    if match not in get_args(Match):
        raise InputError(f"match is {match!r}, expected one of {', '.join(get_args(Match))}")
    magnitudes = _magnitudes(circuit, match, stats)
    generator = torch.Generator().manual_seed(seed)
    chosen: list[AnyNeuron] = []
    for mlp, indices in circuit.by_mlp().items():
        others = torch.ones(circuit.layout.width(mlp), dtype=torch.bool)
        others[list(indices)] = False
        if (left := int(others.sum())) < len(indices):
            raise InputError(
                f"{mlp} has {left} neurons outside the circuit, a control needs {len(indices)}; "
                "take a smaller circuit"
            )
        if magnitudes is None:
            candidates = others.nonzero().squeeze(1)
            order = torch.randperm(len(candidates), generator=generator)[: len(indices)]
            picked = candidates[order].tolist()
        else:
            start = circuit.layout.start(mlp)
            own = magnitudes[start : start + len(others)]
            picked = _alike(others, indices, own, generator)
        chosen.extend(map(mlp.neuron, picked))
    settings = f"seed={seed}" if match == "layer" else f"seed={seed}, match={match!r}"
    provenance = Provenance(
        model=circuit.provenance.model,
        site=circuit.provenance.site,
        rank=f"matched_random({settings})",
        k=len(chosen),
        versions=circuit.provenance.versions,
    )
    return Circuit(tuple(chosen), (0.0,) * len(chosen), circuit.layout, provenance)


def random_direction(method: Method, seed: int = 0) -> Method:
    """Replace each vector of a method by a random direction of the same length.

    The effect of this control is the effect of any push of this size. Only the effect of the method
    beyond it comes from its direction. In high dimensions a random direction is nearly orthogonal
    to the method's own.

    >>> method = caa(tiny_model, ["w5 w6"], ["w7"], chat=False)
    >>> control = random_direction(method, seed=1)
    >>> control.name, torch.allclose(control.vectors.norms, method.vectors.norms)
    ('random_direction(caa, seed=1)', True)

    Args:
        method: the method to match.
        seed: the seed of the draw.

    Raises:
        InputError: the method has no vectors.
    """
    if not isinstance(cast("object", method), VectorAddition | DirectionalAblation):
        raise InputError(
            f"method is {method!r}, which has no vectors; give one of caa or directional_ablation, "
            "and for neurons use matched_random"
        )
    name = f"random_direction({method.name}, seed={seed})"
    if isinstance(method, DirectionalAblation):
        return replace(method, direction=method.direction.random(seed), name=name)
    return replace(method, vectors=method.vectors.random(seed), name=name)


def _magnitudes(
    circuit: Circuit, match: Match, stats: ActivationStats | None
) -> Float64[Tensor, " neuron"] | None:
    if (match == "magnitude") != (stats is not None):
        raise InputError(
            "match='magnitude' needs stats=collect(model, prompts), and match='layer' none"
        )
    if stats is None:
        return None
    if stats.layout != circuit.layout:
        raise InputError(
            f"the statistics are of {stats.layout.n_neurons} neurons in {stats.layout.n_layers} "
            f"layers, the circuit of a model with {circuit.layout.n_neurons} in "
            f"{circuit.layout.n_layers}"
        )
    mean_square = stats.mean**2 + stats.squared_deviations / stats.count
    return mean_square.sqrt()


def _alike(
    others: Tensor,
    indices: Sequence[int],
    magnitudes: Float64[Tensor, " d_mlp"],
    generator: torch.Generator,
) -> list[int]:
    free = others.clone()
    picked: list[int] = []
    for index in sorted(indices, key=lambda index: (-float(magnitudes[index]), index)):
        candidates = free.nonzero().squeeze(1)
        distance = (magnitudes[candidates] - magnitudes[index]).abs()
        nearest = candidates[distance.argsort(stable=True)[:ALIKE]]
        drawn = int(nearest[torch.randint(len(nearest), (1,), generator=generator)])
        free[drawn] = False
        picked.append(drawn)
    return picked
