"""Scale: change what a circuit's neurons pass on, for the length of a context."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, is_bridge
from cna_lens.models.inside.expert_hooks import expert_hooks
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.inside.routing import routed_to
from cna_lens.models.inside.sites import hook_name, is_expert_hook
from cna_lens.models.inside.weights import edited_neurons
from cna_lens.models.running.positions import Positions, PositionTracker, check_positions
from cna_lens.results.circuit import Circuit
from cna_lens.steering.edits import Pull, PullRouted, Scale
from cna_lens.steering.scaled_weights import obstacle_to_scaling, scaled_columns

Via = Literal["auto", "hooks", "weights"]
Values = ActivationStats | Float[Tensor, " n"] | Sequence[float]
Hook = Callable[..., Tensor]


@dataclass(frozen=True)
class Steering:
    """What a `steer` context does.

    Attributes:
        n_neurons: how many neurons are changed.
        multiplier: what their activations are multiplied with, None where values are set.
        positions: at which tokens.
        via: by "hooks", or by scaling the "weights" of the down projection.
    """

    n_neurons: int
    multiplier: float | None
    positions: Positions
    via: Literal["hooks", "weights"]


def scale(circuit: Circuit, multiplier: float) -> list[tuple[str, Hook]]:
    """Hook functions that multiply the circuit's activations at every position.

    For TransformerLens's own `model.hooks`, to be combined with your hooks. `steer` does the same
    and checks that the circuit belongs to the model. A bridge has the hook points of experts only
    within `expert_hooks`.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> with tiny_model.hooks(fwd_hooks=scale(circuit, 0.0)):
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        multiplier: 0 ablates, 1 changes no bit, above 1 amplifies.

    Raises:
        InputError: the multiplier is infinite or not a number.
    """
    check_multiplier(multiplier)
    return [
        (hook_name(mlp, circuit.layout), Scale(circuit.layout.width(mlp), indices, multiplier))
        for mlp, indices in circuit.by_mlp().items()
    ]


def set_to(circuit: Circuit, values: Values, strength: float = 1.0) -> list[tuple[str, Hook]]:
    r"""Hook functions that set the circuit's activations to given values at every position.

    Mean ablation is `set_to(circuit, collect(model, benign_prompts))`. With a strength s below 1
    they only move there, $a \leftarrow a + s (v - a)$.

    For an expert's neuron the value is what reaches the output, with the route weight; it is set
    for the tokens that are routed to the expert, and the statistics' mean is taken over the prompts
    that were.

    Args:
        circuit: the neurons.
        values: one for each neuron of the circuit, in its order; or for each neuron of the model;
            or the statistics whose means are taken.
        strength: how far they move, 1 all the way.

    Raises:
        InputError: the number of values fits neither, or one is infinite or not a number.
    """
    chosen = dict(zip(circuit, values_of(circuit, values), strict=True))
    return [
        (
            hook_name(mlp, circuit.layout),
            (PullRouted if circuit.layout.has_experts(mlp.layer) else Pull)(
                circuit.layout.width(mlp),
                indices,
                torch.tensor([chosen[mlp.neuron(i)] for i in indices], dtype=torch.float64),
                strength,
            ),
        )
        for mlp, indices in circuit.by_mlp().items()
    ]


@contextmanager
def steer(
    model: HookedModel,
    circuit: Circuit,
    multiplier: float | None = None,
    *,
    values: Values | None = None,
    positions: Positions = "all",
    via: Via = "auto",
    allow_other_model: bool = False,
) -> Generator[Steering]:
    r"""Multiply a circuit's activations, or set them, in everything the model computes inside.

    With the multiplier m the activation of each neuron (l, j) of the circuit becomes

    $$a_{l,j} \leftarrow m \, a_{l,j}$$

    at every position, while the prompt is read and while an answer is generated (arXiv
    2605.12290, method, step 6). The paper's strength is $\alpha = 1 - m$. Contexts nest: an inner
    one acts on what the outer one leaves. Afterwards the model is what it was, bit for bit, also
    after an exception or an interrupt.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> with steer(tiny_model, circuit, multiplier=0.0) as steering:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> steering
    Steering(n_neurons=1, multiplier=0.0, positions='all', via='weights')

    Args:
        model: the model the circuit was found on.
        circuit: the neurons.
        multiplier: 0 ablates, 1 changes no bit, above 1 amplifies.
        values: set the activations to these instead, see `set_to`.
        positions: "all"; "prompt"; "last_prompt", the token at which the answer is decided;
            "from_last_prompt", that token and all generated ones; or "generated".
        via: "hooks" works on any model and for any positions. "weights" scales the columns of the
            down projection in place, an expert's too, which costs nothing per token and holds under
            any code that runs the model; hook points then show the activations before they are
            scaled. "auto" takes weights where that is exact and possible, hooks elsewhere, and the
            `Steering` says which.
        allow_other_model: accept a circuit that was found on a model of another name, such as the
            base model's on the instruct model. The shape must agree all the same.

    Raises:
        InputError: an argument cannot be used.
        CircuitMismatchError: the circuit was found on another model.
        ModelError: `via="weights"` is not possible here, or the neurons cannot be reached.

    Warns:
        CnaLensWarning: the circuit was found on other weights of the same model.
    """
    check_positions(positions)
    if (multiplier is None) == (values is None):
        raise InputError("give either multiplier or values, not both")
    if via not in get_args(Via):
        raise InputError(f"via is {via!r}, expected one of {', '.join(get_args(Via))}")
    if multiplier is not None:
        check_multiplier(multiplier)
    check_circuit(model, circuit, allow_other_model=allow_other_model)
    obstacle = _obstacle(model, circuit, values, positions)
    if via == "weights" and obstacle:
        raise ModelError(f"via='weights' is not possible: {obstacle}; use via='hooks'")
    if multiplier is not None and via != "hooks" and not obstacle:
        with scaled_columns(model, circuit, multiplier):
            yield Steering(len(circuit), multiplier, positions, "weights")
        return
    if values is not None:
        check_no_scaled_weights(model, circuit)
        hooks = set_to(circuit, values)
    else:
        hooks = scale(circuit, cast("float", multiplier))
    with hooked(model, hooks, positions):
        yield Steering(len(circuit), multiplier, positions, "hooks")


class _At:
    """Applies a change at the steered positions only."""

    def __init__(self, change: Hook, where: PositionTracker) -> None:
        self.change = change
        self.where = where

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        routed = routed_to(hook)
        if routed is None:
            steered = self.where.pass_of(activation).steered
        else:
            steered = self.where.pass_over(routed.n_tokens).steered.flatten()[routed.tokens]
            steered = steered.view(activation.shape[:-1])
        steered = steered.to(activation.device)
        return torch.where(steered[..., None], self.change(activation, hook), activation)


@contextmanager
def hooked(
    model: HookedModel,
    hooks: Sequence[tuple[str, Hook]],
    positions: Positions = "all",
    tracker: PositionTracker | None = None,
) -> Generator[None]:
    """Change activations by hooks at the steered positions, for the length of the context.

    Args:
        model: a TransformerBridge or HookedTransformer.
        hooks: names of hook points, each with its change.
        positions: at which tokens.
        tracker: what the changes ask about the forward pass, where they do.
    """
    if not hooks:
        yield
        return
    if any(is_expert_hook(name) for name, _ in hooks):
        with expert_hooks(model), _hooked(model, hooks, positions, tracker):
            yield
        return
    with _hooked(model, hooks, positions, tracker):
        yield


@contextmanager
def _hooked(
    model: HookedModel,
    hooks: Sequence[tuple[str, Hook]],
    positions: Positions,
    tracker: PositionTracker | None,
) -> Generator[None]:
    if positions == "all" and tracker is None:
        with model.hooks(fwd_hooks=list(hooks)):
            yield
        return
    where = tracker or PositionTracker(positions)
    if positions != "all":
        hooks = [(name, _At(change, where)) for name, change in hooks]
    module = cast("nn.Module", cast("Any", model).original_model if is_bridge(model) else model)
    handles = [
        module.register_forward_pre_hook(where.before, with_kwargs=True),
        module.register_forward_hook(where.after, always_call=True),
    ]
    try:
        with model.hooks(fwd_hooks=list(hooks)):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _obstacle(
    model: HookedModel, circuit: Circuit, values: Values | None, positions: Positions
) -> str | None:
    if values is not None:
        return "a matrix can scale activations, not set them"
    if positions != "all":
        return f"a matrix scales at all positions, not at positions={positions!r}"
    return obstacle_to_scaling(model, circuit)


def check_no_scaled_weights(model: HookedModel, circuit: Circuit) -> None:
    """Raise InputError where values would be set that an outer context scales by its weights."""
    if both := edited_neurons(model) & set(circuit):
        raise InputError(
            f"{min(both)} is scaled by its weights in an outer steer(), which would scale the "
            "values set here as well; use via='hooks' for the outer one"
        )


def check_multiplier(multiplier: object, name: str = "multiplier") -> None:
    """Raise InputError unless a multiplier is a finite number."""
    if not isinstance(multiplier, int | float) or not math.isfinite(multiplier):
        raise InputError(f"{name} is {multiplier!r}, expected a finite number")


def values_of(circuit: Circuit, values: Values) -> list[float]:
    """One value for each neuron of a circuit, in its order, from whatever `set_to` takes.

    Raises:
        InputError: the number of values fits neither, or one is infinite or not a number.
    """
    given = values.mean_where_routed if isinstance(values, ActivationStats) else values
    given = torch.as_tensor(given, dtype=torch.float64, device="cpu")
    if given.shape == (circuit.layout.n_neurons,):
        given = given[circuit.layout.flat_all(circuit)]
    if given.shape != (len(circuit),):
        raise InputError(
            f"there are {tuple(given.shape)} values; give {len(circuit)}, one for each neuron of "
            f"the circuit, or {circuit.layout.n_neurons}, one for each of the model"
        )
    if not bool(torch.isfinite(given).all()):
        raise InputError("the values hold an infinite one or one that is not a number")
    return given.tolist()
