"""Filter: find and exclude universal neurons, which are strong on nearly every prompt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args, overload

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cna_lens.discovery.activations.reader import Reader
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.prompts.sets import diverse_prompts
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.running.reasoning import behind_reasoning
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import AnyNeuron, NeuronLike, as_neuron
from cna_lens.results.provenance import Position, PromptRecord, UniversalRecord
from cna_lens.results.scores import NeuronScores, circuit_size

Scope = Literal["model", "layer"]
By = Literal["magnitude", "value"]


@dataclass(frozen=True)
class UniversalRule:
    """When a neuron is universal: in the top `fraction` on at least `threshold` of the prompts.

    The paper says "the top 0.1 % of MLP activations on at least 80 %". It leaves open whether the
    top is taken over all layers or within each, and by magnitude or by value. By default, the top
    is taken as for the circuit: over all layers together, by magnitude.

    Attributes:
        fraction: the share of a prompt's activations that counts as its top, rounded as by
            `circuit_size`.
        threshold: the share of the prompts on which a neuron must be in the top.
        scope: take the top over all layers together ("model"), or within each ("layer").
        by: take the top by "magnitude" or by "value".
    """

    fraction: float = 0.001
    threshold: float = 0.8
    scope: Scope = "model"
    by: By = "magnitude"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        circuit_size(1, fraction=self.fraction)
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold is {self.threshold}, expected above 0 and up to 1")
        if self.scope not in get_args(Scope):
            raise InputError(f"scope is {self.scope!r}, expected one of {get_args(Scope)}")
        if self.by not in get_args(By):
            raise InputError(f"by is {self.by!r}, expected one of {get_args(By)}")


@dataclass(frozen=True)
class UniversalNeurons:
    """The universal neurons of a model, and how often each neuron was in the top.

    Attributes:
        layout: the shape of the model.
        neurons: the universal neurons, in the model's order.
        rule: when a neuron counts as universal.
        counts: on how many prompts each neuron was in the top.
        prompts: the diverse prompts.
    """

    layout: Layout
    neurons: tuple[AnyNeuron, ...]
    rule: UniversalRule
    counts: Int64[Tensor, " neuron"]
    prompts: PromptRecord

    @classmethod
    def from_counts(
        cls,
        counts: Int64[Tensor, " neuron"],
        layout: Layout,
        rule: UniversalRule,
        prompts: PromptRecord,
    ) -> UniversalNeurons:
        """Apply the rule to the number of prompts on which each neuron was in the top."""
        # The subtraction absorbs float rounding: 0.07 * 100 is just above 7.
        needed = math.ceil(rule.threshold * prompts.count - 1e-9)
        universal: list[int] = (counts >= needed).nonzero().squeeze(1).tolist()
        return cls(layout, tuple(layout.neuron(flat) for flat in universal), rule, counts, prompts)

    def __len__(self) -> int:
        """Number of universal neurons."""
        return len(self.neurons)

    def __repr__(self) -> str:
        """Name the counts and the threshold in one line."""
        return (
            f"UniversalNeurons({len(self)} of {self.layout.n_neurons} neurons, on at least "
            f"{self.rule.threshold:.0%} of {self.prompts.count} prompts)"
        )


def universal_neurons(
    model: HookedModel,
    prompts: Sequence[Prompt] | None = None,
    *,
    rule: UniversalRule | None = None,
    position: Position = -1,
    chat: Chat = "auto",
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> UniversalNeurons:
    """Find the neurons that are among the most active ones on nearly every diverse prompt.

    Source: arXiv 2605.12290, method, step 5. `UniversalRule` says what the paper leaves open, and
    our choice.

    >>> universal = universal_neurons(tiny_model, ["Hello.", "A longer one."], chat=False)
    >>> universal.rule, universal.prompts.count
    (UniversalRule(fraction=0.001, threshold=0.8, scope='model', by='magnitude'), 2)

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: diverse prompts, the packaged 40 by default.
        rule: when a neuron is universal; the paper's 0.1 % and 80 % by default.
        position: the token to read, as for `collect`.
        chat: put strings into the chat template.
        batch_size: prompts for each forward pass.
        progress: show a progress bar.

    Raises:
        InputError: a prompt cannot be used.
        ModelError: the model's neurons cannot be reached.
        ActivationError: an activation is infinite or not a number.
    """
    prompts = diverse_prompts() if prompts is None else prompts
    encoded = encode(model, prompts, chat=chat)
    if position == "answer":
        (encoded,) = behind_reasoning(model, {"prompts": (prompts, encoded)}, chat)
    counts = TopCounts(rule or UniversalRule())
    Reader(model, position, batch_size, progress).read([(encoded, counts)])
    return counts.universal(encoded.record)


class TopCounts:
    """Counts, batch by batch, the prompts on which each neuron is among the most active."""

    def __init__(self, rule: UniversalRule) -> None:
        """Begin with no prompts."""
        self._rule = rule
        self._counts: Int64[Tensor, " neuron"] | None = None
        self._layout = Layout(())

    def update(
        self,
        rows: Sequence[int],  # noqa: ARG002 (a count does not depend on the order)
        activations: Float[Tensor, "prompt neuron"],
        layout: Layout,
        route_weights: Float[Tensor, "prompt mlp"] | None = None,  # noqa: ARG002
    ) -> None:
        """Add a batch."""
        counts = most_active(activations, layout, self._rule).sum(0)
        self._counts = counts if self._counts is None else self._counts + counts
        self._layout = layout

    def universal(self, prompts: PromptRecord) -> UniversalNeurons:
        """Return the universal neurons, judged by all batches so far.

        Raises:
            InputError: there was no batch.
        """
        if self._counts is None:
            raise InputError("universal neurons need at least one prompt, there was none")
        return UniversalNeurons.from_counts(self._counts.cpu(), self._layout, self._rule, prompts)


def most_active(
    activations: Float[Tensor, "prompt neuron"], layout: Layout, rule: UniversalRule
) -> Bool[Tensor, "prompt neuron"]:
    """Tell which neurons are among each prompt's most active ones.

    >>> most_active(torch.tensor([[0.0, -5.0, 1.0, 2.0]]), Layout((4,)), UniversalRule(0.25))
    tensor([[False,  True, False, False]])
    """
    strength = activations.abs() if rule.by == "magnitude" else activations
    axes = layout.split(strength) if rule.scope == "layer" else (strength,)
    return torch.cat([_top_of_each_row(axis, rule.fraction) for axis in axes], dim=-1)


def _top_of_each_row(
    strength: Float[Tensor, "prompt n"], fraction: float
) -> Bool[Tensor, "prompt n"]:
    top = torch.zeros_like(strength, dtype=torch.bool)
    if strength.shape[-1] == 0:
        return top
    size = circuit_size(strength.shape[-1], fraction=fraction)
    return top.scatter(-1, strength.topk(size, dim=-1).indices, True)


@overload
def filter_universal(
    found: NeuronScores, universal: UniversalNeurons | Iterable[NeuronLike]
) -> NeuronScores: ...
@overload
def filter_universal(
    found: Circuit, universal: UniversalNeurons | Iterable[NeuronLike]
) -> Circuit: ...
def filter_universal(
    found: NeuronScores | Circuit,
    universal: UniversalNeurons | Iterable[NeuronLike],
) -> NeuronScores | Circuit:
    """Exclude universal neurons from scores, or remove them from a circuit.

    After scores are filtered, the circuit that `top` takes from them has its full size; this is how
    `find_circuit` reads the paper by default. A circuit that is filtered shrinks.

    >>> scores = NeuronScores(
    ...     torch.tensor([9.0, 3.0, 1.0], dtype=torch.float64), Layout((3,)), "contrast"
    ... )
    >>> filter_universal(scores, [(0, 0)]).top(k=1).neurons
    (Neuron(layer=0, index=1),)

    Raises:
        InputError: the universal neurons are of a model of another shape.
    """
    neurons = checked_neurons(universal, found.layout)
    record = UniversalRecord(
        len(neurons), applied="after" if isinstance(found, Circuit) else "before"
    )
    if isinstance(universal, UniversalNeurons):
        record = replace(record, **asdict(universal.rule), prompts=universal.prompts)
    provenance = replace(found.provenance, universal=record)
    if isinstance(found, Circuit):
        kept = [(n, s) for n, s in zip(found, found.scores, strict=True) if n not in neurons]
        return replace(
            found,
            neurons=tuple(n for n, _ in kept),
            scores=tuple(s for _, s in kept),
            provenance=provenance,
        )
    eligible = torch.ones_like(found.values, dtype=torch.bool)
    if found.eligible is not None:
        eligible &= found.eligible
    eligible[found.layout.flat_all(neurons)] = False
    return replace(found, eligible=eligible, provenance=provenance)


def checked_neurons(
    universal: UniversalNeurons | Iterable[NeuronLike], layout: Layout
) -> frozenset[AnyNeuron]:
    """Return the universal neurons as a set; raise InputError unless the layout has them all."""
    if isinstance(universal, UniversalNeurons):
        if universal.layout != layout:
            raise InputError(
                f"the universal neurons are of a model with {universal.layout.n_neurons} neurons "
                f"in {universal.layout.n_layers} layers, the scores of one with "
                f"{layout.n_neurons} in {layout.n_layers}"
            )
        return frozenset(universal.neurons)
    neurons = as_neurons(universal)
    layout.flat_all(neurons)
    return frozenset(neurons)


def as_neurons(pairs: Iterable[NeuronLike]) -> tuple[AnyNeuron, ...]:
    """Convert (layer, index) or (layer, expert, index) to neurons; InputError for all else."""
    try:
        return tuple(map(as_neuron, pairs))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"universal is {pairs!r}, expected UniversalNeurons or (layer, index) pairs"
        ) from error
