"""The magnitude anchor: set neurons to values that follow their activation on the prompt."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.inside.sites import hook_name
from cna_lens.models.running.positions import (
    Positions,
    PositionTracker,
    check_positions,
    whole_prompts,
)
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Neuron
from cna_lens.results.provenance import Position
from cna_lens.steering.edits import check_width, pulled
from cna_lens.steering.method import Applied, by_hooks, check_strength
from cna_lens.steering.scaling import check_multiplier, check_no_scaled_weights, values_of


@dataclass(frozen=True)
class Anchor:
    r"""Maps a neuron's activation on a prompt to the value that the neuron is set to.

    $$g(v) = m v + m_2, \qquad m = t / d, \quad m_2 = -d, \quad d = h - n$$

    where h and n are the neuron's mean activations on positive and negative prompts, and t is the
    target, which limits g. If the neuron is as active on a prompt as on positive ones, it is set to
    about the target. If it is silent, it is set to about minus the difference, which changes little
    (arXiv 2605.08513, anchor intervention).

    >>> anchor = Anchor.of(positive=1.111, negative=-0.001657, target=-4.0)
    >>> round(anchor.multiplier, 6), round(anchor.offset, 6)
    (-3.594998, -1.112657)

    Attributes:
        multiplier: m above.
        offset: m_2 above.
        target: t above.
    """

    multiplier: float
    offset: float
    target: float

    @classmethod
    def of(cls, positive: float, negative: float, target: float) -> Anchor:
        """Make the anchor of a neuron with these mean activations.

        Raises:
            InputError: the means do not differ, or a number is not finite.
        """
        check_multiplier(target, "target")
        difference = positive - negative
        check_multiplier(difference, "the difference of the means")
        if difference == 0:
            raise InputError(
                "a neuron's mean is the same on positive and negative prompts, so it has no "
                "anchor; leave it out of the circuit"
            )
        return cls(target / difference, -difference, target)

    def __call__(self, activation: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """Compute the value to set from the activation at the anchor token."""
        value = activation * self.multiplier + self.offset
        return value.clamp(max=self.target) if self.target > 0 else value.clamp(min=self.target)


@dataclass(frozen=True)
class MagnitudeAnchor:
    r"""A steering method that sets a circuit's neurons by their anchors, from `magnitude_anchor`.

    $$a_{l,j} \leftarrow a_{l,j} + \alpha \, (g_{l,j}(v_{l,j}) - a_{l,j})$$

    with the strength $\alpha$, the neuron's activation v at one token of the same prompt, and its
    `Anchor` g. The source reads v in a separate, unsteered pass; here v is read in the steered pass
    itself. For neurons of one layer both give the same number. Neurons of later layers see the
    prompt as earlier layers have changed it.

    Attributes:
        circuit: the neurons.
        anchors: one for each neuron, in the circuit's order.
        position: index of the token at which v is read in the encoded prompt, chat template
            included and padding excluded; -1 is the last.
        positions: the tokens to steer, as for `steer`.
        name: the method's name, for tables.
        allow_other_model: accept a circuit that was found on a model of another name.
    """

    circuit: Circuit
    anchors: tuple[Anchor, ...]
    position: int = -1
    positions: Positions = "all"
    name: str = "magnitude_anchor"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_positions(self.positions)
        if len(self.anchors) != len(self.circuit):
            raise InputError(
                f"there are {len(self.anchors)} anchors for {len(self.circuit)} neurons; give one "
                "for each"
            )

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context.

        Prefix sharing is disabled, because steering here depends on a later token.

        Raises:
            InputError: the strength is outside 0 to 1, or an outer context scales these neurons by
                their weights.
            CircuitMismatchError: the circuit was found on another model.
            ModelError: the circuit is of a model with experts.
        """
        check_strength(strength)
        if self.circuit.layout.experts:
            raise ModelError(
                "an anchor is read at one token, which may not be routed to a neuron's expert; use "
                "ablation or mean_ablation for a model with experts"
            )
        check_circuit(model, self.circuit, allow_other_model=self.allow_other_model)
        if not strength:
            yield Applied(self.name, strength, self.positions, "nothing")
            return
        check_no_scaled_weights(model, self.circuit)
        tracker = PositionTracker(self.positions, model)
        anchor_of = dict(zip(self.circuit, self.anchors, strict=True))
        hooks = [
            (
                hook_name(layer),
                _SetByAnchor(
                    self.circuit.layout.widths[layer],
                    indices,
                    [anchor_of[Neuron(layer, index)] for index in indices],
                    self.position,
                    strength,
                    tracker,
                ),
            )
            for layer, indices in self.circuit.by_layer().items()
        ]
        steering = by_hooks(model, self.name, strength, self.positions, hooks, tracker)
        with whole_prompts(), steering as applied:
            yield applied


def magnitude_anchor(
    circuit: Circuit,
    positive: ActivationStats,
    negative: ActivationStats,
    target: float | Sequence[float],
    *,
    scale: float = 1.0,
    positions: Positions = "all",
) -> MagnitudeAnchor:
    """Make the anchor intervention of arXiv 2605.08513, for one neuron or a circuit.

    The value of a neuron follows its activation on the prompt. The method therefore costs less than
    a constant value on prompts that do not show the behaviour. The source finds the target by a
    sweep of constants, and tries the scales 1 and 2.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> positive = collect(tiny_model, ["w5 w6", "w8"], chat=False)
    >>> negative = collect(tiny_model, ["w7", "w9"], chat=False)
    >>> with magnitude_anchor(circuit, positive, negative, target=-4.0).at(tiny_model) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        positive: statistics of prompts that show the behaviour.
        negative: statistics of prompts that do not, at the same token.
        target: the limit of the values; one, or one for each neuron of the circuit.
        scale: multiplies the anchors' multipliers, not their targets.
        positions: the tokens to steer, as for `steer`.

    Raises:
        InputError: a neuron's means do not differ; the statistics are of other neurons, or of
            different tokens; or there is not one target for each neuron.
    """
    for name, stats in (("positive", positive), ("negative", negative)):
        if stats.layout != circuit.layout:
            raise InputError(
                f"the {name} statistics are of {stats.layout}, the circuit of {circuit.layout}; "
                "collect them on the circuit's model"
            )
    read: set[Position] = {
        stats.source.position for stats in (positive, negative) if stats.source is not None
    }
    if len(read) > 1:
        raise InputError(
            f"the statistics were read at positions {sorted(read, key=str)}; collect both at the "
            "same token"
        )
    position: Position = read.pop() if read else -1
    if position == "answer":
        raise InputError(
            'an anchor is read at a token of the prompt, and the statistics at position "answer"; '
            "collect them at position=-1, on the prompts of with_reasoning"
        )
    check_multiplier(scale, "scale")
    targets = [target] * len(circuit) if isinstance(target, int | float) else list(target)
    if len(targets) != len(circuit):
        raise InputError(
            f"there are {len(targets)} targets for {len(circuit)} neurons; give one for all, or "
            "one for each"
        )
    means = zip(
        values_of(circuit, positive).tolist(),
        values_of(circuit, negative).tolist(),
        targets,
        strict=True,
    )
    anchors = [Anchor.of(plus, minus, limit) for plus, minus, limit in means]
    return MagnitudeAnchor(
        circuit,
        tuple(replace(anchor, multiplier=anchor.multiplier * scale) for anchor in anchors),
        position,
        positions,
    )


@dataclass(frozen=True)
class _SetByAnchor:
    """Sets neurons of one layer by their activation at the anchor token, pass after pass."""

    width: int
    indices: Sequence[int]
    anchors: Sequence[Anchor]
    position: int
    strength: float
    tracker: PositionTracker
    # The values of each prompt's neurons, once its anchor token has been seen.
    values: dict[int, Float[Tensor, " n"]] = field(default_factory=dict[int, Tensor])

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        check_width(activation, self.width, hook)
        current = self.tracker.pass_of(activation)
        if current.begins:
            # Another part of the batch may have begun before, and goes on later.
            for row in current.rows:
                self.values.pop(row, None)
        for place, at in current.token(self.position).nonzero().tolist():
            seen = activation[place, at, list(self.indices)].float()
            self.values[current.rows[place]] = torch.stack(
                [anchor(value) for anchor, value in zip(self.anchors, seen, strict=True)]
            )
        if unseen := [row for row in current.rows if row not in self.values]:
            raise ModelError(
                f"the pass holds prompt {unseen[0]}, and no pass so far held its token "
                f"{self.position}, by which neurons are set; run each prompt in one piece"
            )
        values = torch.stack([self.values[row] for row in current.rows])[:, None]
        return pulled(activation, self.indices, values, self.strength)
