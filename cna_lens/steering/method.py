"""The protocol of steering methods: a name, and a context with a strength from 0 to 1."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Literal, Protocol, cast, runtime_checkable

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.running.positions import Positions, PositionTracker
from cna_lens.steering.scaling import Hook, hooked


@dataclass(frozen=True)
class Applied:
    """How a steering method changes a model within its context.

    Attributes:
        method: the method's name.
        strength: from 0, no change, to 1, the whole method.
        positions: the tokens that are steered.
        via: "hooks", "weights", or "nothing" where nothing is changed, as at strength 0.
        hook_points: where activations are changed; for "weights", those of the scaled neurons.
    """

    method: str
    strength: float
    positions: Positions
    via: Literal["hooks", "weights", "nothing"]
    hook_points: tuple[str, ...] = ()


@runtime_checkable
class SteeringMethod(Protocol):
    """A way to steer: a value whose context changes a model at any strength from 0 to 1.

    All methods have this one interface, so an experiment can loop over methods and strengths:

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> for method in (ablation(circuit), ablation(matched_random(circuit))):
    ...     for strength in (0.0, 0.5, 1.0):
    ...         with method.at(tiny_model, strength) as applied:
    ...             print(applied.method, applied.strength, applied.via)
    ablation 0.0 nothing
    ablation 0.5 weights
    ablation 1.0 weights
    ablation 0.0 nothing
    ablation 0.5 weights
    ablation 1.0 weights
    """

    @property
    def name(self) -> str:
        """The method's name, for tables."""
        ...

    def at(self, model: HookedModel, strength: float = 1.0) -> AbstractContextManager[Applied]:
        """Steer the model within the context; strength 0 changes no bit.

        Args:
            model: a TransformerBridge or HookedTransformer.
            strength: from 0 to 1.

        Raises:
            InputError: the strength is outside 0 to 1.
        """
        ...


@contextmanager
def by_hooks(
    model: HookedModel,
    name: str,
    strength: float,
    positions: Positions,
    hooks: Sequence[tuple[str, Hook]],
    tracker: PositionTracker | None = None,
) -> Generator[Applied]:
    """Apply a method's hooks at its positions within the context, and say so."""
    via = "hooks" if hooks else "nothing"
    with hooked(model, hooks, positions, tracker):
        yield Applied(name, strength, positions, via, tuple(point for point, _ in hooks))


def check_methods(methods: object, name: str) -> None:
    """Raise InputError unless it is a list of steering methods."""
    if not isinstance(methods, Sequence) or isinstance(methods, str):
        raise InputError(f"{name} is {methods!r}, expected a list of steering methods")
    for method in cast("Sequence[object]", methods):
        if isinstance(method, type) or not isinstance(method, SteeringMethod):
            raise InputError(
                f"{name} has {method!r}, expected steering methods, such as ablation(circuit)"
            )


def check_strength(strength: object) -> None:
    """Raise InputError unless a strength is a number from 0 to 1."""
    if not isinstance(strength, Real) or not 0 <= float(strength) <= 1:
        raise InputError(
            f"strength is {strength!r}, expected 0 (nothing) to 1; to steer harder, raise the "
            "method's own multiplier or coefficient"
        )
