"""Scale or set the activations of a circuit's neurons within a context."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, hooks_of_their_own
from cna_lens.models.inside.expert_hooks import expert_hooks
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.inside.projections import DownProjection
from cna_lens.models.inside.routing import routed_to
from cna_lens.models.inside.scalings import obstacle_to_scaling, scaled_neurons, scaled_weights
from cna_lens.models.inside.sites import hook_name, is_expert_hook
from cna_lens.models.running.positions import Positions, PositionTracker, check_positions
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import MLP
from cna_lens.steering.edits import Pull, PullRouted, Scale

Via = Literal["auto", "hooks", "weights"]
Values = ActivationStats | Float[Tensor, " n"] | Sequence[float]
Hook = Callable[..., Tensor]


@dataclass(frozen=True)
class Steering:
    """How a `steer` context changes the model.

    Attributes:
        n_neurons: how many neurons are changed.
        multiplier: the factor of their activations, None where they are set to values.
        positions: the tokens that are steered.
        via: by "hooks", or by scaling the "weights" of the down projection.
    """

    n_neurons: int
    multiplier: float | None
    positions: Positions
    via: Literal["hooks", "weights"]


def scale(circuit: Circuit, multiplier: float) -> list[tuple[str, Hook]]:
    """Return hooks that multiply the circuit's activations at every position.

    Use them with TransformerLens's own `model.hooks`, together with your hooks. `steer` applies the
    same hooks, and also checks that the circuit belongs to the model. A bridge has the hook points
    of experts only within `expert_hooks`.

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
    r"""Return hooks that set the circuit's activations to given values at every position.

    Mean ablation is `set_to(circuit, collect(model, benign_prompts))`. With a strength s below 1
    the activations only move towards the values, $a \leftarrow a + s (v - a)$.

    For an expert's neuron the value includes the route weight: it is the value that reaches the
    layer's output. Only tokens that are routed to the expert are changed, and means are over the
    prompts whose read token was routed to that expert.

    Args:
        circuit: the neurons.
        values: a value for each neuron of the circuit, in its order; or for each neuron of the
            model, in the model's order, which also counts if the circuit has all of them; or
            statistics, whose means are used.
        strength: the share of the way, 1 for all of it.

    Raises:
        InputError: the number of values is neither the circuit's nor the model's number of neurons,
            or a value is infinite or not a number.
    """
    return set_in_order(circuit, values_of(circuit, values), strength)


def set_in_order(
    circuit: Circuit, values: Float[Tensor, " chosen"], strength: float
) -> list[tuple[str, Hook]]:
    """Return the hooks of `set_to` for a value for each neuron of the circuit, in its order."""
    chosen = torch.zeros(circuit.layout.n_neurons, dtype=torch.float64)
    chosen[circuit.places] = values
    return set_places(circuit.layout, circuit.places, chosen, strength)


def set_places(
    layout: Layout,
    places: Int[Tensor, " n"],
    values: Float[Tensor, " neuron"],
    strength: float = 1.0,
) -> list[tuple[str, Hook]]:
    """Return the hooks of `set_to`, quickly for nearly all neurons of a model.

    Args:
        layout: of the model.
        places: of the neurons to set, on the axis of all neurons.
        values: one for each neuron of the model.
        strength: the share of the way, 1 for all of it.
    """
    is_set = torch.zeros(layout.n_neurons, dtype=torch.bool)
    is_set[places] = True
    hooks: list[tuple[str, Hook]] = []
    for mlp in layout.mlps:
        start, width = layout.start(mlp), layout.width(mlp)
        indices = is_set[start : start + width].nonzero().flatten()
        if len(indices):
            pull = PullRouted if layout.has_experts(mlp.layer) else Pull
            its_values = values[start + indices]
            hooks.append(
                (hook_name(mlp, layout), pull(width, indices.tolist(), its_values, strength))
            )
    return hooks


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
    r"""Multiply a circuit's activations, or set them to values, within the context.

    The activation of each neuron (l, j) of the circuit is multiplied with m,

    $$a_{l,j} \leftarrow m \, a_{l,j},$$

    at every position, both while the model reads the prompt and while it generates an answer (arXiv
    2605.12290, method, step 6). The paper's strength is $\alpha = 1 - m$. Contexts nest: an inner
    one changes the activations that the outer one has changed, so the multipliers of a neuron
    multiply. When the context ends, even through an exception or an interrupt, the model is
    restored bit for bit. Contexts may also overlap, in one thread or in several, and end in any
    order. Each changes the model for all threads, and when one ends, the others stay in force. A
    copy of the model that is made within the context keeps scaled weights.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> with steer(tiny_model, circuit, multiplier=0.0) as steering:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))
    >>> steering
    Steering(n_neurons=1, multiplier=0.0, positions='all', via='weights')

    Args:
        model: the model on which the circuit was found.
        circuit: the neurons.
        multiplier: 0 ablates, 1 changes no bit, above 1 amplifies.
        values: set the activations to these values instead, see `set_to`.
        positions: the tokens to steer: "all"; "prompt"; "last_prompt", the token that decides how
            the answer begins; "from_last_prompt", that token and all generated ones; or
            "generated". All but "all" refuse a pass with padding on the right and without an
            attention mask, unless `prompt_lengths` states the lengths.
        via: "hooks" works on any model and for any positions. "weights" scales the columns of the
            down projection in place, those of experts too. Scaling weights adds no cost per token
            and takes effect whatever code runs the model, but hook points then show the unscaled
            activations. "auto" uses weights where they can be scaled and steering is at all
            positions, and hooks elsewhere; the `Steering` says which.
        allow_other_model: accept a circuit from a model of another name, such as the base model's
            circuit on the instruct model; the two models must still have the same shape.

    Yields:
        How the model is changed: the number of neurons, and whether by hooks or weights.

    Raises:
        InputError: an argument cannot be used.
        CircuitMismatchError: the circuit was found on another model.
        ModelError: `via="weights"` is not possible here, or the neurons cannot be reached. A weight
            that is offloaded cannot be scaled; "auto" uses hooks then.

    Warns:
        CnaLensWarning: the circuit was found on other weights of the same model; or something else
            changed, within the context, the weights that it has scaled. Those then stay as they
            are, and are not restored.
    """
    check_positions(positions)
    if (multiplier is None) == (values is None):
        given = "both were given" if values is not None else "neither was given"
        raise InputError(f"give either multiplier or values; {given}")
    check_via(via)
    if multiplier is not None:
        check_multiplier(multiplier)
    projections = check_circuit(model, circuit, allow_other_model=allow_other_model)
    if values is not None:
        obstacle = "a matrix can scale activations, not set them"
    elif positions != "all":
        obstacle = f"a matrix scales at all positions, not at positions={positions!r}"
    else:
        obstacle = obstacle_to_scaling(model, projections)
    if via == "weights" and obstacle:
        raise ModelError(f"via='weights' is not possible: {obstacle}; use via='hooks'")
    if multiplier is not None and via != "hooks" and not obstacle:
        matrices = cast("dict[MLP, DownProjection]", projections)
        with scaled_weights(model, matrices, circuit.by_mlp(), multiplier):
            yield Steering(len(circuit), multiplier, positions, "weights")
        return
    if values is not None:
        check_no_scaled_weights(model, circuit)
        hooks = set_to(circuit, values)
    else:
        hooks = scale(circuit, cast("float", multiplier))
    with hooked(model, hooks, positions):
        yield Steering(len(circuit), multiplier, positions, "hooks")


@dataclass(frozen=True)
class _At:
    """Applies a change at the steered positions only."""

    change: Hook
    where: PositionTracker

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
    """Change activations by hooks at the steered positions within the context.

    Args:
        model: a TransformerBridge or HookedTransformer.
        hooks: names of hook points, each with its change.
        positions: the tokens to steer.
        tracker: follows the forward passes, for changes that depend on it.
    """
    with ExitStack() as stack:
        if any(is_expert_hook(name) for name, _ in hooks):
            stack.enter_context(expert_hooks(model))
        if hooks and (tracker is not None or positions != "all"):
            where = tracker or PositionTracker(positions, model)
            if positions != "all":
                hooks = [(name, _At(change, where)) for name, change in hooks]
            module = cast("nn.Module", getattr(model, "original_model", model))
            before = module.register_forward_pre_hook(where.before, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(where.after, always_call=True).remove)
        if hooks:
            stack.enter_context(hooks_of_their_own(model, hooks))
        yield


def check_no_scaled_weights(model: HookedModel, circuit: Circuit) -> None:
    """Raise InputError if an outer context scales, through the weights, a neuron to be set here."""
    if both := scaled_neurons(model) & set(circuit):
        raise InputError(
            f"an outer steer() scales {min(both)} by its weights, and would scale the value set "
            "here as well; use via='hooks' for the outer one"
        )


def check_via(via: object) -> None:
    """Raise InputError unless it is a way of steering."""
    if via not in get_args(Via):
        raise InputError(f"via is {via!r}, expected one of {', '.join(get_args(Via))}")


def check_multiplier(multiplier: object, name: str = "multiplier") -> None:
    """Raise InputError unless a multiplier is a finite number."""
    if not isinstance(multiplier, Real) or not math.isfinite(multiplier):
        raise InputError(f"{name} is {multiplier!r}, expected a finite number")


def values_of(circuit: Circuit, values: Values) -> Float[Tensor, " chosen"]:
    """Return one value for each neuron of a circuit, in its order; for arguments see `set_to`."""
    given = values.mean_where_routed if isinstance(values, ActivationStats) else values
    given = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach()
    if given.shape == (circuit.layout.n_neurons,):
        given = given[circuit.places]
    if given.shape != (len(circuit),):
        raise InputError(
            f"there are {tuple(given.shape)} values; give {len(circuit)}, one for each neuron of "
            f"the circuit, or {circuit.layout.n_neurons}, one for each of the model"
        )
    return _finite(given)


def in_order(circuit: Circuit, values: Sequence[float]) -> Float[Tensor, " chosen"]:
    """Check that there is a finite value for each neuron of a circuit, in its order."""
    given = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    if given.shape != (len(circuit),):
        raise InputError(
            f"there are {tuple(given.shape)} values; give {len(circuit)}, one for each neuron of "
            "the circuit"
        )
    return _finite(given)


def _finite(given: Float[Tensor, " chosen"]) -> Float[Tensor, " chosen"]:
    if not bool(torch.isfinite(given).all()):
        raise InputError("a value is infinite or not a number; give finite values")
    return given
