"""A circuit's neurons as steering methods: ablated, amplified, or moved to given values."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.inside.sites import hook_name
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.results.circuit import Circuit
from cna_lens.steering.method import Applied, check_strength
from cna_lens.steering.scaling import (
    Values,
    Via,
    check_multiplier,
    check_no_scaled_weights,
    hooked,
    set_to,
    steer,
    values_of,
)


@dataclass(frozen=True)
class NeuronScaling:
    r"""Multiplies a circuit's activations; a steering method, from `ablation` or by hand.

    $$a_{l,j} \leftarrow \left(1 - \alpha (1 - m)\right) \, a_{l,j}$$

    with the strength $\alpha$ and the multiplier m that holds at strength 1. For m = 0 it is the
    paper's (arXiv 2605.12290, method, step 7): the multiplier at strength alpha is 1 - alpha.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> with NeuronScaling(circuit, 2.0, name="amplification").at(tiny_model, 0.5) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))  # multiplied with 1.5
    >>> applied.via, applied.hook_points
    ('weights', ('blocks.1.mlp.hook_post',))

    Attributes:
        circuit: the neurons.
        multiplier: at strength 1; 0 ablates, above 1 amplifies.
        positions: at which tokens.
        via: by hooks or by weights, as for `steer`.
        name: what tables call it.
        allow_other_model: accept a circuit that was found on a model of another name.
    """

    circuit: Circuit
    multiplier: float = 0.0
    positions: Positions = "all"
    via: Via = "auto"
    name: str = "ablation"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_multiplier(self.multiplier)
        check_positions(self.positions)

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
    r"""Scales how far a circuit's activations are from values; a steering method.

    $$a_{l,j} \leftarrow v_{l,j} + \left(1 - \alpha (1 - m)\right) \, (a_{l,j} - v_{l,j})$$

    with the strength $\alpha$ and the multiplier m that holds at strength 1. For m = 0 they become
    the values (`mean_ablation`), for m = -1 they are mirrored in them, above 1 they are driven away
    from them (`deviation_scaling`).

    Attributes:
        circuit: the neurons.
        values: one for each neuron of the circuit, in its order.
        positions: at which tokens.
        name: what tables call it.
        allow_other_model: accept a circuit that was found on a model of another name.
        multiplier: of the distance, at strength 1.
    """

    circuit: Circuit
    values: tuple[float, ...]
    positions: Positions = "all"
    name: str = "mean_ablation"
    allow_other_model: bool = False
    multiplier: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        object.__setattr__(self, "values", tuple(values_of(self.circuit, self.values)))
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
        hooks = set_to(self.circuit, self.values, strength * (1 - self.multiplier))
        with hooked(model, hooks, self.positions):
            places = tuple(name for name, _ in hooks)
            yield Applied(self.name, strength, self.positions, "hooks", places)


def ablation(circuit: Circuit, *, positions: Positions = "all", via: Via = "auto") -> NeuronScaling:
    """CNA's own intervention: the circuit's activations are multiplied with 1 - strength.

    >>> ablation(Circuit((Neuron(1, 3),), (1.0,), tiny_layout)).multiplier
    0.0

    Args:
        circuit: the neurons; one from `matched_random` is the control.
        positions: which tokens are steered, as for `steer`.
        via: by hooks or by weights, as for `steer`.
    """
    return NeuronScaling(circuit, 0.0, positions, via)


def mean_ablation(circuit: Circuit, values: Values, *, positions: Positions = "all") -> NeuronPull:
    """The circuit's activations move towards what they are on other prompts.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> benign = collect(tiny_model, ["w5 w6", "w7"], chat=False)
    >>> with mean_ablation(circuit, benign, positions="last_prompt").at(tiny_model) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        values: the statistics whose means are taken, such as those of benign prompts; or a value
            for each neuron of the circuit, or of the model.
        positions: which tokens are steered, as for `steer`.

    Raises:
        InputError: the number of values fits neither, or one is infinite or not a number.
    """
    return NeuronPull(circuit, tuple(values_of(circuit, values)), positions)


def deviation_scaling(
    circuit: Circuit, values: Values, multiplier: float, *, positions: Positions = "all"
) -> NeuronPull:
    """How far the circuit's activations are from what they are on other prompts is multiplied.

    Where `ablation` scales what a neuron does, this scales by how much it tells the prompt at hand
    from the others. On those others it changes little at any multiplier, which is why it costs
    less. A multiplier below 0 takes a behaviour away beyond mean ablation, one above 1 adds to it.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> benign = collect(tiny_model, ["w5 w6", "w7"], chat=False)
    >>> mirrored = deviation_scaling(circuit, benign, -1.0, positions="last_prompt")
    >>> with mirrored.at(tiny_model):
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        values: what the distance is measured from, as for `mean_ablation`.
        multiplier: at strength 1: 0 is mean ablation, 1 changes nothing.
        positions: which tokens are steered, as for `steer`.

    Raises:
        InputError: the multiplier is no finite number, or the values are none as `mean_ablation`
            says.
    """
    known = tuple(values_of(circuit, values))
    return NeuronPull(circuit, known, positions, "deviation_scaling", multiplier=multiplier)
