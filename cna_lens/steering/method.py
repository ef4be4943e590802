"""What every way of steering has in common: a name, and a context with a strength from 0 to 1."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.running.positions import Positions


@dataclass(frozen=True)
class Applied:
    """What a steering method does within its context.

    Attributes:
        method: its name.
        strength: from 0, nothing, to 1, all of it.
        positions: at which tokens.
        via: by "hooks", by the "weights", or "nothing" at strength 0.
        hook_points: where activations are changed; for "weights", the neurons that are scaled.
    """

    method: str
    strength: float
    positions: Positions
    via: Literal["hooks", "weights", "nothing"]
    hook_points: tuple[str, ...] = ()


@runtime_checkable
class SteeringMethod(Protocol):
    """A way to steer: a value that can be entered on a model at any strength.

    So that an experiment loops over methods and strengths alike:

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
        """What tables call it."""
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


def check_strength(strength: object) -> None:
    """Raise InputError unless a strength is a number from 0 to 1."""
    if not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise InputError(
            f"strength is {strength!r}, expected 0 (nothing) to 1; for more, raise the method's "
            "own multiplier or coefficient"
        )
