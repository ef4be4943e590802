"""Random controls for methods that steer with vectors: another direction of the same length."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from cna_lens.baselines.caa import VectorAddition
from cna_lens.baselines.directional import DirectionalAblation

Method = TypeVar("Method", VectorAddition, DirectionalAblation)


def random_direction(method: Method, seed: int = 0) -> Method:
    """The same method with a random direction for each of its vectors, of the same length.

    What it does is what any push of this size does; only what the method does beyond it is the
    direction's. In high dimensions a random direction is nearly orthogonal to the method's own.

    >>> method = caa(tiny_model, ["w5 w6"], ["w7"], chat=False)
    >>> control = random_direction(method, seed=1)
    >>> control.name, torch.allclose(control.vectors.norms, method.vectors.norms)
    ('random_direction(caa, seed=1)', True)

    Args:
        method: what to match.
        seed: another seed gives another control.
    """
    name = f"random_direction({method.name}, seed={seed})"
    if isinstance(method, DirectionalAblation):
        return replace(method, direction=method.direction.random(seed), name=name)
    return replace(method, vectors=method.vectors.random(seed), name=name)
