"""What every ranking is: a name, what it needs, and a function from that to scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

from jaxtyping import Bool, Float64
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats, Reducer, RunningMoments
from cna_lens.discovery.activations.per_prompt import KeptActivations, PromptActivations
from cna_lens.discovery.activations.reader import Reader
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import EncodedPrompts
from cna_lens.results.provenance import Provenance, library_versions
from cna_lens.results.scores import NeuronScores

Needs = Literal["statistics", "weights", "activations", "gradients"]


@dataclass(frozen=True)
class Collected:
    """What a ranking may look at.

    Attributes:
        positive: statistics of the positive prompts' activations.
        negative: statistics of the negative prompts' activations.
        activations: each prompt's activations, positive and negative, where they were kept.
        reader: the model, the token to read, and how to batch; None where only statistics or
            activations are at hand.
        prompts: the positive prompts; None as above.
    """

    positive: ActivationStats
    negative: ActivationStats
    activations: tuple[PromptActivations, PromptActivations] | None = None
    reader: Reader | None = None
    prompts: EncodedPrompts | None = None

    def __post_init__(self) -> None:
        """Refuse sets of models of different shapes."""
        if self.positive.layout != self.negative.layout:
            raise InputError(
                f"the positive prompts ran on a model with {self.positive.layout.n_neurons} "
                f"neurons in {self.positive.layout.n_layers} layers, the negative ones on one with "
                f"{self.negative.layout.n_neurons} in {self.negative.layout.n_layers}; use one "
                "model"
            )
        positive, negative = self.positive.source, self.negative.source
        if positive is None or negative is None:
            return
        if replace(positive, prompts=negative.prompts) != negative:
            raise InputError(
                f"the two sets were collected differently: {positive} and {negative}; collect both "
                "from one model with the same position and chat setting"
            )

    @property
    def model(self) -> HookedModel:
        """The model, for a ranking that needs one."""
        return self.model_and_prompts()[0].model

    def model_and_prompts(self) -> tuple[Reader, EncodedPrompts]:
        """The model with its settings, and the positive prompts.

        Raises:
            InputError: only statistics or activations are at hand.
        """
        if self.reader is None or self.prompts is None:
            raise InputError(
                "this ranking needs the model, not only what was collected from it; use "
                "cna_lens.score_neurons or cna_lens.find_circuit"
            )
        return self.reader, self.prompts

    def scored(
        self,
        ranking: Ranking,
        values: Float64[Tensor, " neuron"],
        unit: str = "activation",
        eligible: Bool[Tensor, " neuron"] | None = None,
    ) -> NeuronScores:
        """A ranking's values with where they come from.

        Args:
            ranking: what gave them.
            values: one for each neuron.
            unit: their unit.
            eligible: False where the ranking has no opinion, and a neuron must not be chosen.
        """
        return NeuronScores(
            values, self.positive.layout, ranking.name, unit, eligible, self._known(ranking, unit)
        )

    def _known(self, ranking: Ranking, unit: str) -> Provenance:
        known = Provenance(rank=described(ranking), unit=unit, versions=library_versions())
        positive, negative = self.positive.source, self.negative.source
        if positive is None or negative is None:
            return known
        return replace(
            known,
            model=positive.model,
            site=positive.site,
            position=positive.position,
            template_sha256=positive.template_sha256,
            positive=positive.prompts,
            negative=negative.prompts,
        )


@runtime_checkable
class Ranking(Protocol):
    """A way to score neurons, as a frozen value: a name, settings, and a function.

    Write your own as a frozen dataclass that inherits from this one; its fields are its settings,
    and are recorded in the circuit.

    >>> @dataclass(frozen=True)
    ... class Variance(Ranking):
    ...     name = "variance"
    ...     needs = "statistics"
    ...
    ...     def score(self, collected):
    ...         return collected.scored(self, collected.positive.variance)
    >>> circuit = find_circuit(
    ...     tiny_model, [[5, 6], [7]], [[8]], rank=Variance(), k=2, universal=None, progress=False
    ... )
    >>> circuit.provenance.rank
    'variance'

    Attributes:
        name: what it is called.
        needs: "statistics" of the activations, streamed; the model's "weights" too; every prompt's
            "activations"; or the model and the prompts, for "gradients".
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:
        """Raise what can be known to be wrong before the model runs."""

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron, by `collected.scored`."""
        ...


def described(ranking: Ranking) -> str:
    """A ranking's name and settings, as they are recorded."""
    settings = ", ".join(
        f"{field.name}={getattr(ranking, field.name)!r}" for field in fields(cast("Any", ranking))
    )
    return f"{ranking.name}({settings})" if settings else ranking.name


def read_sets(
    reader: Reader,
    ranking: Ranking,
    positive: EncodedPrompts,
    negative: EncodedPrompts,
    also: Sequence[tuple[EncodedPrompts, Reducer]] = (),
) -> Collected:
    """Run both sets, keeping what the ranking needs, and others in the same stream."""
    sources = reader.source(positive), reader.source(negative)
    if ranking.needs != "activations":
        moments = RunningMoments(), RunningMoments()
        reader.read([(positive, moments[0]), (negative, moments[1]), *also])
        stats = moments[0].stats(sources[0]), moments[1].stats(sources[1])
        return Collected(*stats, reader=reader, prompts=positive)
    keepers = KeptActivations(sources[0], None), KeptActivations(sources[1], None)
    reader.read([(positive, keepers[0]), (negative, keepers[1]), *also])
    kept = keepers[0].kept(), keepers[1].kept()
    return Collected(kept[0].stats(), kept[1].stats(), kept, reader, positive)
