"""The magnitude anchor: neurons are set to what their own activation on the prompt calls for."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from cna_lens.steering.edits import check_width, pulled
from cna_lens.steering.method import Applied, check_strength
from cna_lens.steering.scaling import check_multiplier, check_no_scaled_weights, hooked, values_of


@dataclass(frozen=True)
class Anchor:
    r"""How one neuron's own activation on a prompt becomes the value it is set to.

    $$g(v) = m v + m_2, \qquad m = t / d, \quad m_2 = -d, \quad d = h - n$$

    where h and n are the neuron's mean activations on positive and negative prompts, and t is the
    target that g may not go beyond. A prompt on which the neuron is as active as on positive ones
    has it set to about the target, one on which it is silent to about minus the difference, which
    changes little (arXiv 2605.08513, anchor intervention).

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
        """The anchor of a neuron with these mean activations.

        Raises:
            InputError: the means do not differ, or a number is not finite.
        """
        check_multiplier(target, "target")
        difference = positive - negative
        check_multiplier(difference, "the difference of the means")
        if difference == 0:
            raise InputError(
                "a neuron's mean is the same on positive and negative prompts, so that it has no "
                "anchor; leave it out of the circuit"
            )
        return cls(target / difference, -difference, target)

    def __call__(self, activation: Float[Tensor, "*rows"]) -> Float[Tensor, "*rows"]:
        """The value that the neuron is set to, for its activation at the anchor token."""
        value = activation * self.multiplier + self.offset
        return value.clamp(max=self.target) if self.target > 0 else value.clamp(min=self.target)


@dataclass(frozen=True)
class MagnitudeAnchor:
    r"""Sets a circuit's neurons by their anchors; a steering method, from `magnitude_anchor`.

    $$a_{l,j} \leftarrow a_{l,j} + \alpha \, (g_{l,j}(v_{l,j}) - a_{l,j})$$

    with the strength $\alpha$, v the neuron's activation at one token of the same prompt, and g its
    `Anchor`. The source reads v in a pass of its own, without steering; here it is read in the pass
    that is steered. For neurons of one layer that is the same number; neurons of later layers see
    the prompt as the earlier ones have changed it.

    Attributes:
        circuit: the neurons.
        anchors: one for each neuron, in the circuit's order.
        position: the token that v is read at, counted in each prompt's own tokens.
        positions: at which tokens the neurons are set.
        name: what tables call it.
        allow_other_model: accept a circuit that was found on a model of another name.
    """

    circuit: Circuit
    anchors: tuple[Anchor, ...]
    position: int = -1
    positions: Positions = "all"
    name: str = "magnitude_anchor"
    allow_other_model: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot be meant."""
        check_positions(self.positions)
        if len(self.anchors) != len(self.circuit):
            raise InputError(
                f"there are {len(self.anchors)} anchors for {len(self.circuit)} neurons; give one "
                "for each"
            )

    @contextmanager
    def at(self, model: HookedModel, strength: float = 1.0) -> Generator[Applied]:
        """Steer the model within the context.

        A prefix that prompts share is not computed apart, since what happens in it depends on the
        token that v is read at.

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
                "ablation or mean_ablation for the neurons of a model with experts"
            )
        check_circuit(model, self.circuit, allow_other_model=self.allow_other_model)
        if not strength:
            yield Applied(self.name, strength, self.positions, "nothing")
            return
        check_no_scaled_weights(model, self.circuit)
        tracker = PositionTracker(self.positions)
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
        with whole_prompts(), hooked(model, hooks, self.positions, tracker):
            places = tuple(name for name, _ in hooks)
            yield Applied(self.name, strength, self.positions, "hooks", places)


def magnitude_anchor(
    circuit: Circuit,
    positive: ActivationStats,
    negative: ActivationStats,
    target: float | Sequence[float],
    *,
    scale: float = 1.0,
    positions: Positions = "all",
) -> MagnitudeAnchor:
    """The anchor intervention of arXiv 2605.08513, for one neuron or a circuit.

    Against a constant it costs less on prompts that do not show the behaviour, because what a
    neuron is set to follows what it does on the prompt. The source finds the target by a sweep of
    constants, and tries the scales 1 and 2.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> positive = collect(tiny_model, ["w5 w6", "w8"], chat=False)
    >>> negative = collect(tiny_model, ["w7", "w9"], chat=False)
    >>> with magnitude_anchor(circuit, positive, negative, target=-4.0).at(tiny_model) as applied:
    ...     logits = tiny_model(torch.tensor([[1, 2, 3]]))

    Args:
        circuit: the neurons.
        positive: their activations on prompts that show the behaviour.
        negative: their activations on prompts that do not, at the same token.
        target: the value to go towards, and not beyond; one, or one for each neuron of the circuit.
        scale: multiplies the anchors' multipliers, not their limit.
        positions: which tokens are steered, as for `steer`.

    Raises:
        InputError: a neuron's means do not differ; statistics of other neurons, or read at
            different tokens; or not one target for each neuron.
    """
    for name, stats in (("positive", positive), ("negative", negative)):
        if stats.layout != circuit.layout:
            raise InputError(
                f"the {name} statistics are of {stats.layout}, the circuit of {circuit.layout}; "
                "collect them on the circuit's model"
            )
    read = {stats.source.position for stats in (positive, negative) if stats.source is not None}
    if len(read) > 1:
        raise InputError(
            f"the statistics were read at positions {sorted(read)}; collect both at the same token"
        )
    check_multiplier(scale, "scale")
    targets = [target] * len(circuit) if isinstance(target, int | float) else list(target)
    if len(targets) != len(circuit):
        raise InputError(
            f"there are {len(targets)} targets for {len(circuit)} neurons; give one for all, or "
            "one for each"
        )
    means = zip(values_of(circuit, positive), values_of(circuit, negative), targets, strict=True)
    anchors = [Anchor.of(plus, minus, limit) for plus, minus, limit in means]
    return MagnitudeAnchor(
        circuit,
        tuple(Anchor(a.multiplier * scale, a.offset, a.target) for a in anchors),
        read.pop() if read else -1,
        positions,
    )


class _SetByAnchor:
    """Sets neurons of one layer by what they were at the anchor token, pass after pass."""

    def __init__(
        self,
        width: int,
        indices: Sequence[int],
        anchors: Sequence[Anchor],
        position: int,
        strength: float,
        tracker: PositionTracker,
    ) -> None:
        self.width = width
        self.indices = torch.tensor(indices)
        self.anchors = anchors
        self.position = position
        self.strength = strength
        self.tracker = tracker
        # What each prompt's neurons are set to, once its anchor token has been seen.
        self.values: dict[int, Float[Tensor, " n"]] = {}

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        check_width(activation, self.width, hook)
        current = self.tracker.pass_of(activation)
        if current.begins:
            self.values.clear()
        indices = self.indices.to(activation.device)
        for place, at in current.token(self.position).nonzero().tolist():
            seen = activation[place, at, indices].float()
            self.values[current.rows[place]] = torch.stack(
                [anchor(value) for anchor, value in zip(self.anchors, seen, strict=True)]
            )
        if unseen := [row for row in current.rows if row not in self.values]:
            raise ModelError(
                f"the pass holds prompt {unseen[0]}, and none so far held its token "
                f"{self.position}, by which neurons are set; run each prompt in one piece"
            )
        values = torch.stack([self.values[row] for row in current.rows])[:, None]
        return pulled(activation, indices, values, self.strength)
