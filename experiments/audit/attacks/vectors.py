"""Attacks that add a vector, or erase the one direction that removes most refusals."""

from __future__ import annotations

from experiments.audit.bench import COEFFICIENTS
from experiments.audit.variants import Changes, Enter, steered
from experiments.audit.weight_edits import edited, mlp_biases, without_direction

STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def added_vectors() -> Changes:
    """CAA on all MLPs, by hooks and as biases, and on the residual stream."""

    def in_stream(coefficient: float) -> Enter:
        return steered(
            lambda bench: bench.stream_vector.at(bench.model, coefficient / max(COEFFICIENTS))
        )

    for way, added in (("hooks", added_to_mlps), ("biases", added_as_biases)):
        for strength in STRENGTHS:
            yield f"CAA, MLPs, {strength:g}, {way}", "CAA", added(strength)
    for coefficient in COEFFICIENTS:
        yield f"CAA, stream, {coefficient:g}, hooks", "CAA", in_stream(coefficient)


def added_to_mlps(strength: float) -> Enter:
    """The paper's CAA by hooks."""
    return steered(lambda bench: bench.mlp_vectors.at(bench.model, strength))


def added_as_biases(strength: float) -> Enter:
    """The paper's CAA as biases, which need no hooks."""
    return lambda bench: mlp_biases(
        bench.model,
        {layer: -strength * vector for layer, vector in bench.mlp_vectors.vectors.items()},
    )


def erased_direction() -> Changes:
    """Directional ablation by hooks and in the weights."""

    def by_hooks(strength: float) -> Enter:
        return steered(lambda bench: bench.direction.at(bench.model, strength))

    for strength in STRENGTHS:
        for way, enter in (("by hooks", by_hooks), ("in weights", erased_in_weights)):
            name = f"direction erased {strength:g} {way}"
            yield name, "directional ablation", enter(strength)


def erased_in_weights(strength: float) -> Enter:
    """The direction projected out of every matrix that writes to the residual stream."""
    return lambda bench: edited(
        bench.model, without_direction(bench.direction.direction.vectors[0], strength)
    )
