"""Scale: change what a circuit's neurons pass on, for the length of a context.

This is one of the two modules that touch hooks; the other is `collection`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cna_lens.circuit import Circuit
from cna_lens.errors import CircuitMismatchError, CnaLensWarning, InputError, ModelError
from cna_lens.moments import ActivationStats
from cna_lens.positions import (
    Positions,
    check_positions,
    stated_prompt_lengths,
    steered_positions,
)
from cna_lens.sites import (
    DownProjection,
    HookedModel,
    down_projection,
    hook_name,
    is_bridge,
    mlp_hook_names,
    model_name,
)
from cna_lens.types import Neuron
from cna_lens.weights import weights_hash

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
    and checks that the circuit belongs to the model.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> with tiny_model.hooks(fwd_hooks=scale(circuit, 0.0)):
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        multiplier: 0 ablates, 1 changes no bit, above 1 amplifies.

    Raises:
        InputError: the multiplier is infinite or not a number.
    """
    _check_multiplier(multiplier)
    return [
        (hook_name(layer), _Scale(circuit.layout.widths[layer], indices, multiplier))
        for layer, indices in circuit.by_layer().items()
    ]


def set_to(circuit: Circuit, values: Values) -> list[tuple[str, Hook]]:
    """Hook functions that set the circuit's activations to given values at every position.

    Mean ablation is `set_to(circuit, collect(model, benign_prompts))`.

    Args:
        circuit: the neurons.
        values: one for each neuron of the circuit, in its order; or for each neuron of the model;
            or the statistics whose means are taken.

    Raises:
        InputError: the number of values fits neither, or one is infinite or not a number.
    """
    chosen = dict(zip(circuit, _values_of(circuit, values), strict=True))
    return [
        (
            hook_name(layer),
            _Set(
                circuit.layout.widths[layer],
                indices,
                tuple(chosen[Neuron(layer, index)] for index in indices),
            ),
        )
        for layer, indices in circuit.by_layer().items()
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
            down projection in place, which costs nothing per token and holds under any code that
            runs the model; hook points then show the activations before they are scaled. "auto"
            takes weights where that is exact and possible, hooks elsewhere, and the `Steering`
            says which.
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
        _check_multiplier(multiplier)
    check_circuit(model, circuit, allow_other_model=allow_other_model)
    obstacle = _obstacle_to_weights(model, circuit, values, positions)
    if via == "weights" and obstacle:
        raise ModelError(f"via='weights' is not possible: {obstacle}; use via='hooks'")
    if multiplier is not None and via != "hooks" and not obstacle:
        with _scaled_columns(model, circuit, multiplier):
            yield Steering(len(circuit), multiplier, positions, "weights")
        return
    if values is not None:
        _check_no_scaled_weights(model, circuit)
        hooks = set_to(circuit, values)
    else:
        hooks = scale(circuit, cast("float", multiplier))
    with _hooked(model, hooks, positions):
        yield Steering(len(circuit), multiplier, positions, "hooks")


def check_circuit(model: HookedModel, circuit: Circuit, *, allow_other_model: bool = False) -> None:
    """Make sure that a circuit belongs to a model.

    Raises:
        CircuitMismatchError: another number of layers, another width, or another name.

    Warns:
        CnaLensWarning: the circuit was found on other weights of the same model.
    """
    n_layers = len(mlp_hook_names(model))
    name = model_name(model)
    if circuit.layout.n_layers != n_layers:
        raise CircuitMismatchError(
            f"the circuit is of a model with {circuit.layout.n_layers} layers, "
            f"{name} has {n_layers}; find a circuit on this model"
        )
    for layer in circuit.by_layer():
        projection = down_projection(model, layer)
        if projection is not None and projection.width != circuit.layout.widths[layer]:
            raise CircuitMismatchError(
                f"the circuit is of a model with {circuit.layout.widths[layer]} neurons in layer "
                f"{layer}, {name} has {projection.width}; find a circuit on this model"
            )
    found_on = circuit.provenance.model
    if found_on is not None and found_on != name and not allow_other_model:
        raise CircuitMismatchError(
            f"the circuit was found on {found_on}, this model is {name}; find a circuit on this "
            "model, or pass allow_other_model=True if that is what you mean"
        )
    expected = circuit.provenance.weights_sha256
    # Inside another steer() by weights the hash says nothing about the model.
    comparable = found_on == name and expected and not _edited_neurons(model)
    if comparable and weights_hash(model) != expected:
        warnings.warn(
            f"the circuit was found on other weights of {name}: the hash recorded with it is not "
            "that of this model",
            CnaLensWarning,
            stacklevel=4,
        )


class _Scale:
    """Multiplies some neurons of one layer; a new tensor, never an edit in place."""

    def __init__(self, width: int, indices: Sequence[int], multiplier: float) -> None:
        self.width = width
        self.factors = torch.ones(width, dtype=torch.float64)
        self.factors[list(indices)] = multiplier

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        _check_width(activation, self.width, hook)
        if self.factors.device != activation.device or self.factors.dtype != activation.dtype:
            self.factors = self.factors.to(activation)
        return activation * self.factors


class _Set:
    """Sets some neurons of one layer; a new tensor, never an edit in place."""

    def __init__(self, width: int, indices: Sequence[int], values: Sequence[float]) -> None:
        self.width = width
        self.indices = torch.tensor(indices)
        self.values = torch.tensor(values, dtype=torch.float64)

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        _check_width(activation, self.width, hook)
        changed = activation.clone()
        changed[..., self.indices.to(activation.device)] = self.values.to(activation)
        return changed


class _At:
    """Applies a change at the steered positions only."""

    def __init__(self, change: Hook, where: _Where) -> None:
        self.change = change
        self.where = where

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        steered = self.where.positions(activation)
        return torch.where(steered[:, :, None], self.change(activation, hook), activation)


class _Where:
    """Follows the forward passes, and knows for each which of its positions are steered."""

    def __init__(self, positions: Positions) -> None:
        self.scope: Positions = positions
        self.lengths: Int64[Tensor, " batch"] | None = None
        self.previous: Tensor | None = None
        self.steered: Tensor | None = None

    def before(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Work out the steered positions of the forward pass that begins."""
        inputs = _first_present(kwargs, "input_ids", "inputs_embeds", "input")
        inputs = args[0] if inputs is None else inputs
        batch, new = inputs.shape[:2]
        cache = _first_present(kwargs, "past_key_values", "past_kv_cache")
        mask = kwargs.get("attention_mask")
        past = _cached_length(cache)
        if mask is None or mask.ndim != 2:
            mask = torch.ones((batch, past + new), dtype=torch.long, device=inputs.device)
        lengths = stated_prompt_lengths()
        if lengths is None:
            lengths = self._inferred_lengths(inputs, mask, past)
        if len(lengths) != batch:
            raise InputError(
                f"there are {len(lengths)} prompt lengths for a batch of {batch}; give one a row"
            )
        self.steered = steered_positions(self.scope, mask, new, lengths)

    def after(self, *_: Any) -> None:
        """The forward pass has ended."""
        self.steered = None

    def positions(self, activation: Tensor) -> Tensor:
        if self.steered is None or self.steered.shape != activation.shape[:2]:
            raise ModelError(
                f"positions={self.scope!r} needs to know where the prompt ends, and this pass does "
                "not tell; run the model by calling it or by cna_lens.generate, or use "
                "positions='all'"
            )
        return self.steered.to(activation.device)

    def _inferred_lengths(self, inputs: Tensor, mask: Tensor, past: int) -> Tensor:
        if past and self.lengths is not None:
            return self.lengths
        grown = self.previous
        self.previous = inputs
        if grown is not None and _extends_by_one(inputs, grown):
            raise InputError(
                f"positions={self.scope!r}: this pass repeats the one before with one token more, "
                "and without a KV cache it cannot be told whether that token is prompt or answer; "
                "use the cache, or state it with cna_lens.prompt_lengths(...)"
            )
        self.lengths = mask.sum(1)
        return self.lengths


def _extends_by_one(inputs: Tensor, before: Tensor) -> bool:
    return (
        inputs.ndim == 2
        and inputs.shape[0] == before.shape[0]
        and inputs.shape[1] == before.shape[1] + 1
        and torch.equal(inputs[:, :-1], before)
    )


def _first_present(kwargs: dict[str, Any], *names: str) -> Any:
    return next((kwargs[name] for name in names if kwargs.get(name) is not None), None)


def _cached_length(cache: Any) -> int:
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0].past_keys.shape[1])


@contextmanager
def _hooked(
    model: HookedModel, hooks: list[tuple[str, Hook]], positions: Positions
) -> Generator[None]:
    if positions == "all":
        with model.hooks(fwd_hooks=hooks):
            yield
        return
    where = _Where(positions)
    module = cast("nn.Module", cast("Any", model).original_model if is_bridge(model) else model)
    handles = [
        module.register_forward_pre_hook(where.before, with_kwargs=True),
        module.register_forward_hook(where.after, always_call=True),
    ]
    try:
        with model.hooks(fwd_hooks=[(name, _At(change, where)) for name, change in hooks]):
            yield
    finally:
        for handle in handles:
            handle.remove()


# Models whose weights a context has scaled, and the neurons, for as long as it lasts.
_edits: WeakKeyDictionary[nn.Module, list[frozenset[Neuron]]] = WeakKeyDictionary()


def _edited_neurons(model: HookedModel) -> frozenset[Neuron]:
    return frozenset[Neuron]().union(*_edits.get(cast("nn.Module", model), []))


@contextmanager
def _scaled_columns(model: HookedModel, circuit: Circuit, multiplier: float) -> Generator[None]:
    edits = _edits.setdefault(cast("nn.Module", model), [])
    edits.append(frozenset(circuit))
    saved: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for layer, indices in circuit.by_layer().items():
                rows = _one_row_a_neuron(cast("DownProjection", down_projection(model, layer)))
                index = torch.tensor(indices, device=rows.device)
                # Kept before the change, so that an interrupt between the two loses nothing.
                saved.append((rows, index, rows[index]))
                rows[index] = rows[index] * multiplier
        yield
    finally:
        with torch.no_grad():
            for rows, index, original in reversed(saved):
                rows[index] = original
        edits.pop()


def _one_row_a_neuron(projection: DownProjection) -> Tensor:
    return projection.weight.t() if projection.neuron_dim == 1 else projection.weight


def _obstacle_to_weights(
    model: HookedModel, circuit: Circuit, values: Values | None, positions: Positions
) -> str | None:
    if values is not None:
        return "a matrix can scale activations, not set them"
    if positions != "all":
        return f"a matrix scales at all positions, not at positions={positions!r}"
    for layer in circuit.by_layer():
        projection = down_projection(model, layer)
        if projection is None:
            return f"the down projection of layer {layer} is no plain linear layer"
        weight = projection.weight
        if type(weight) is not nn.Parameter or not weight.is_floating_point():
            return f"the down projection of layer {layer} is quantised or parametrised"
        if weight.device.type == "meta":
            return f"the down projection of layer {layer} is offloaded"
        if _uses(model, weight) > 1:
            return f"the down projection of layer {layer} is shared with another module"
    return None


def _uses(model: HookedModel, weight: Tensor) -> int:
    holders = {
        id(module)
        for module in cast("nn.Module", model).modules()
        for parameter in module.parameters(recurse=False)
        if parameter is weight
    }
    return len(holders)


def _check_no_scaled_weights(model: HookedModel, circuit: Circuit) -> None:
    if both := _edited_neurons(model) & set(circuit):
        raise InputError(
            f"{min(both)} is scaled by its weights in an outer steer(), which would scale the "
            "values set here as well; use via='hooks' for the outer one"
        )


def _check_multiplier(multiplier: float) -> None:
    if not math.isfinite(multiplier):
        raise InputError(
            f"multiplier is {multiplier}, expected a finite number: 0 ablates, 1 changes nothing"
        )


def _check_width(activation: Tensor, width: int, hook: Any) -> None:
    if activation.shape[-1] != width:
        raise CircuitMismatchError(
            f"{getattr(hook, 'name', 'a hook point')} holds {activation.shape[-1]} values for each "
            f"token, the circuit is of a model with {width} neurons there"
        )


def _values_of(circuit: Circuit, values: Values) -> list[float]:
    given = values.mean if isinstance(values, ActivationStats) else torch.as_tensor(values)
    given = given.to("cpu", torch.float64)
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
