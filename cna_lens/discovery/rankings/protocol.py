"""The protocol of rankings: a name, the data it needs, and a function from these to scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

from jaxtyping import Bool, Float64
from torch import Tensor

from cna_lens.discovery.activations.means import ActivationStats, Reducer, RunningMoments
from cna_lens.discovery.activations.per_prompt import KeptActivations, PromptActivations
from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.activations.sets import EncodedSets, read_both
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import EncodedPrompts
from cna_lens.models.running.batching import is_whole
from cna_lens.results.provenance import Provenance, library_versions
from cna_lens.results.scores import NeuronScores

NO_SETTING: Mapping[str, Any] = MappingProxyType({"is_setting": False})
"""Metadata of a field that does not change the scores, such as where a run is kept."""
Needs = Literal["statistics", "weights", "activations", "gradients"]


@dataclass(frozen=True)
class Collected:
    """The data that a ranking may use.

    Attributes:
        positive: statistics of the positive prompts' activations.
        negative: statistics of the negative prompts' activations.
        activations: each prompt's activations, positive and negative, where they were kept.
        reader: the model, the token to read, and how to batch; None where only statistics or
            activations are available.
        prompts: the positive prompts; None like the reader.
        negatives: the negative prompts; None like the reader.
    """

    positive: ActivationStats
    negative: ActivationStats
    activations: tuple[PromptActivations, PromptActivations] | None = None
    reader: Reader | None = None
    prompts: EncodedPrompts | None = None
    negatives: EncodedPrompts | None = None

    def __post_init__(self) -> None:
        """Reject sets that differ in more than their prompts."""
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
        """The model; InputError as for `model_and_prompts`."""
        return self.model_and_prompts()[0].model

    def model_and_prompts(self) -> tuple[Reader, EncodedPrompts]:
        """Return the reader, which holds the model, and the positive prompts.

        Raises:
            InputError: only statistics or activations are available.
        """
        if self.reader is None or self.prompts is None:
            raise InputError(
                "this ranking needs the model, and only statistics or activations were given; use "
                "cna_lens.score_neurons or cna_lens.find_circuit"
            )
        return self.reader, self.prompts

    def negative_prompts(self) -> EncodedPrompts:
        """Return the negative prompts.

        Raises:
            InputError: they are not available, or the model is not.
        """
        self.model_and_prompts()
        if self.negatives is None:
            raise InputError(
                "this ranking needs the negative prompts, and none were given with the model; use "
                "cna_lens.score_neurons or cna_lens.find_circuit"
            )
        return self.negatives

    def part(
        self, sets: EncodedSets, positive: Sequence[int], negative: Sequence[int]
    ) -> Collected:
        """The data of some of the prompts, without another pass over them.

        Args:
            sets: these prompts, encoded.
            positive: their places among the positive prompts.
            negative: their places among the negative prompts.

        Raises:
            InputError: the activations of each prompt were not kept.
        """
        if self.activations is None:
            raise InputError(
                'the activations of each prompt were not kept; collect them with keep="all"'
            )
        kept = (
            self.activations[0].part(positive, sets.positive.record),
            self.activations[1].part(negative, sets.negative.record),
        )
        return Collected(kept[0].stats(), kept[1].stats(), kept, self.reader, *sets)

    def scored(
        self,
        ranking: Ranking,
        values: Float64[Tensor, " neuron"],
        unit: str = "activation",
        eligible: Bool[Tensor, " neuron"] | None = None,
    ) -> NeuronScores:
        """Return a ranking's values together with their provenance.

        Args:
            ranking: the ranking that computed them.
            values: one score for each neuron.
            unit: the unit of the scores.
            eligible: False for a neuron that the ranking does not score, and that must not be
                chosen.
        """
        known = Provenance(rank=described(ranking), unit=unit, versions=library_versions())
        positive, negative = self.positive.source, self.negative.source
        if positive is not None and negative is not None:
            known = replace(
                known,
                model=positive.model,
                site=positive.site,
                position=positive.position,
                template_sha256=positive.template_sha256,
                chat=positive.chat,
                positive=positive.prompts,
                negative=negative.prompts,
            )
        return NeuronScores(values, self.positive.layout, ranking.name, unit, eligible, known)


@runtime_checkable
class Ranking(Protocol):
    """A way to score neurons: a frozen value with a name, settings and a function.

    To write your own, inherit from this class in a frozen dataclass. Its fields are its settings,
    and circuits record them.

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
        name: the ranking's name.
        needs: "statistics" for means and variances; "weights" for the model too; "activations" for
            those of every prompt; "gradients" for the model and the prompts of both sets.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:
        """Raise an error for a model or prompts that the ranking cannot use, before it runs."""

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron; return `collected.scored(self, values)`."""
        ...


def check_whole(name: str, value: object, least: int = 0) -> None:
    """Raise InputError unless a setting is a whole number, and large enough."""
    if not is_whole(value, least):
        raise InputError(f"{name} is {value!r}, expected a whole number from {least} on")


def described(ranking: Ranking, leave_out: Sequence[str] = ()) -> str:
    """Write a ranking's name and settings as a circuit records them.

    Args:
        ranking: the ranking.
        leave_out: settings that are not written, beside those with `NO_SETTING`.
    """
    settings = ", ".join(
        f"{field.name}={getattr(ranking, field.name)!r}"
        for field in fields(cast("Any", ranking))
        if field.name not in leave_out and field.metadata != NO_SETTING
    )
    return f"{ranking.name}({settings})" if settings else ranking.name


def read_sets(
    reader: Reader,
    ranking: Ranking,
    positive: EncodedPrompts,
    negative: EncodedPrompts,
    also: Sequence[tuple[EncodedPrompts, Reducer]] = (),
) -> Collected:
    """Run both sets in one stream, and keep what the ranking needs.

    Args:
        reader: the model, the token to read, and how to batch.
        ranking: decides between statistics and every prompt's activations.
        positive: encoded prompts that show the behaviour.
        negative: encoded prompts that do not.
        also: other prompts to run in the same stream, each with what receives their activations.
    """
    sets = EncodedSets(positive, negative)
    if ranking.needs == "activations":
        keepers = read_both(reader, sets, KeptActivations, also)
        kept = keepers[0].kept(), keepers[1].kept()
        return Collected(kept[0].stats(), kept[1].stats(), kept, reader, positive, negative)
    moments = read_both(reader, sets, RunningMoments, also)
    return Collected(
        moments[0].stats(), moments[1].stats(), None, reader, prompts=positive, negatives=negative
    )
