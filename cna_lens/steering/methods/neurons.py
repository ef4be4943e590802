"""Steering methods that ablate or amplify a circuit's neurons, or move them to values."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.inside.sites import hook_name
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.results.circuit import Circuit
from cna_lens.steering.method import Applied, by_hooks, check_strength
from cna_lens.steering.scaling import (
    Values,
    Via,
    check_multiplier,
    check_no_scaled_weights,
    check_via,
    in_order,
    set_in_order,
    steer,
    values_of,
)


@dataclass(frozen=True)
class NeuronScaling:
    r"""A steering method that multiplies a circuit's activations, from `ablation` or by hand.

    $$a_{l,j} \leftarrow \left(1 - \alpha (1 - m)\right) \, a_{l,j}$$

    with the strength $\alpha$ and the multiplier m at strength 1. For m = 0 this is the paper's
    ablation (arXiv 2605.12290, method, step 7), which multiplies with $1 - \alpha$.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> with NeuronScaling(circuit, 2.0, name="amplification").at(tiny_model, 0.5) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))  # multiplied with 1.5
    >>> applied.via, applied.hook_points
    ('weights', ('blocks.1.mlp.hook_post',))

    Attributes:
        circuit: the neurons.
        multiplier: the factor at strength 1: 0 ablates, above 1 amplifies.
        positions: the tokens to steer, as for `steer`.
        via: by hooks or by weights, as for `steer`.
        name: the method's name, for tables.
        allow_other_model: accept a circuit that was found on a model of another name.
    """

    circuit: Circuit
    multiplier: float = 0.0
    positions: Positions = "all"
    via: Via = "auto"
    name: str = "ablation"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_multiplier(self.multiplier)
        check_positions(self.positions)
        check_via(self.via)

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context.

        Raises:
            InputError: the strength is outside 0 to 1.
            CircuitMismatchError: the circuit was found on another model.
            ModelError: `via="weights"` is not possible here.
        """
        check_strength(strength)
        if not strength:
            check_circuit(model, self.circuit, allow_other_model=self.allow_other_model)
            yield Applied(self.name, strength, self.positions, "nothing")
            return
        with steer(
            model,
            self.circuit,
            1 - strength * (1 - self.multiplier),
            positions=self.positions,
            via=self.via,
            allow_other_model=self.allow_other_model,
        ) as steering:
            layout = self.circuit.layout
            places = tuple(hook_name(mlp, layout) for mlp in self.circuit.by_mlp())
            yield Applied(self.name, strength, self.positions, steering.via, places)


@dataclass(frozen=True)
class NeuronPull:
    r"""A steering method that scales the distance of a circuit's activations from values.

    $$a_{l,j} \leftarrow v_{l,j} + \left(1 - \alpha (1 - m)\right) \, (a_{l,j} - v_{l,j})$$

    with the strength $\alpha$ and the multiplier m at strength 1. For m = 0 the activations become
    the values (`mean_ablation`); for m = -1 they are mirrored in the values, and for m > 1 driven
    away from them (`deviation_scaling`).

    Attributes:
        circuit: the neurons.
        values: a value for each neuron of the circuit, in its order.
        positions: the tokens to steer, as for `steer`.
        name: the method's name, for tables.
        allow_other_model: accept a circuit that was found on a model of another name.
        multiplier: the factor of the distance at strength 1.
    """

    circuit: Circuit
    values: tuple[float, ...]
    positions: Positions = "all"
    name: str = "mean_ablation"
    allow_other_model: bool = False
    multiplier: float = 0.0

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        object.__setattr__(self, "values", tuple(in_order(self.circuit, self.values).tolist()))
        check_multiplier(self.multiplier)
        check_positions(self.positions)

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context.

        Raises:
            InputError: the strength is outside 0 to 1, or an outer context scales these neurons by
                their weights.
            CircuitMismatchError: the circuit was found on another model.
        """
        check_strength(strength)
        check_circuit(model, self.circuit, allow_other_model=self.allow_other_model)
        if not strength:
            yield Applied(self.name, strength, self.positions, "nothing")
            return
        check_no_scaled_weights(model, self.circuit)
        values = in_order(self.circuit, self.values)
        hooks = set_in_order(self.circuit, values, strength * (1 - self.multiplier))
        with by_hooks(model, self.name, strength, self.positions, hooks) as applied:
            yield applied


def ablation(circuit: Circuit, *, positions: Positions = "all", via: Via = "auto") -> NeuronScaling:
    """Make CNA's own intervention: multiply the circuit's activations with 1 - strength.

    >>> ablation(Circuit((Neuron(1, 3),), (1.0,), tiny_layout)).multiplier
    0.0

    Args:
        circuit: the neurons; those of `matched_random` are the control.
        positions: the tokens to steer, as for `steer`.
        via: by hooks or by weights, as for `steer`.
    """
    return NeuronScaling(circuit, 0.0, positions, via)


def mean_ablation(circuit: Circuit, values: Values, *, positions: Positions = "all") -> NeuronPull:
    """Make the method that moves the circuit's activations to their means on other prompts.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> benign = collect(tiny_model, ["w5 w6", "w7"], chat=False)
    >>> with mean_ablation(circuit, benign, positions="last_prompt").at(tiny_model) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        values: statistics, whose means are used, such as those of benign prompts; or a value for
            each neuron of the circuit, or of the model.
        positions: the tokens to steer, as for `steer`.

    Raises:
        InputError: the number of values fits neither, or a value is infinite or not a number.
    """
    return NeuronPull(circuit, tuple(values_of(circuit, values).tolist()), positions)


def deviation_scaling(
    circuit: Circuit, values: Values, multiplier: float, *, positions: Positions = "all"
) -> NeuronPull:
    """Make the method that multiplies the distance of activations from their means elsewhere.

    `ablation` scales a neuron's activation; this method scales only its deviation from the means on
    other prompts. On those other prompts it changes little at any multiplier, and so costs less. A
    multiplier below 0 weakens a behaviour beyond mean ablation, one above 1 strengthens it.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> benign = collect(tiny_model, ["w5 w6", "w7"], chat=False)
    >>> mirrored = deviation_scaling(circuit, benign, -1.0, positions="last_prompt")
    >>> with mirrored.at(tiny_model):
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        values: measure the distance from these, as for `mean_ablation`.
        multiplier: the factor at strength 1: 0 is mean ablation, 1 changes nothing.
        positions: the tokens to steer, as for `steer`.

    Raises:
        InputError: the multiplier is not a finite number, or the values do not fit, as for
            `mean_ablation`.
    """
    known = tuple(values_of(circuit, values).tolist())
    return NeuronPull(circuit, known, positions, "deviation_scaling", multiplier=multiplier)
