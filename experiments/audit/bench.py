"""The reference model, and the circuits and vectors of attacks and their controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

import cna_lens
from cna_lens import (
    ActivationStats,
    Circuit,
    DirectionalAblation,
    Neuron,
    UniversalNeurons,
    VectorAddition,
    circuit_size,
)
from cna_lens.models import HookedModel
from cna_lens.results import Sign
from cna_lens.steering import ControlVectors, difference_of_means
from experiments.audit.gradients import refusal_gradient
from experiments.audit.references import (
    REFERENCE,
    REFERENCES,
    Places,
    Reference,
    best_places,
    keep,
    places_in,
)
from experiments.audit.weight_edits import differing, weights_of

RANKINGS: Mapping[str, Sign] = {
    "contrast": "abs",
    "standardized": "abs",
    "attribution_patching": "positive",
    "relp": "positive",
}
"""The rankings of the attacks, each with the sign of the scores that count."""

FRACTIONS = (0.001, 0.003, 0.01)
COEFFICIENTS = (0.5, 1.0, 2.0)

CONCEPTS = ("planted_french", "planted_uppercase", "planted_sums", "agreement")
"""Prompt sets whose two sides differ by a benign concept: cooking, animals, sums, plurals."""

CONCEPT_PROMPTS = 20


@dataclass(frozen=True, eq=False)
class Bench:
    """The parts of variants; each part is found at its first use.

    Attributes:
        model: the reference, whose fingerprint is taken.
        folder: keeps circuits and adapters for the next run.
        n_pairs: number of pairs of the packaged discovery set for circuits and vectors.
        reference: what the model is.
    """

    model: HookedModel
    folder: Path
    n_pairs: int = 50
    reference: Reference = REFERENCES[REFERENCE]

    @classmethod
    def of(cls, reference: Reference, folder: Path) -> Bench:
        """Load the reference, whose parts are kept in a folder."""
        return cls(reference.load(), folder, reference=reference)

    def circuit(self, ranking: str, fraction: float) -> Circuit:
        """A ranking's strongest neurons, without the universal ones.

        A smaller circuit is the beginning of a larger one, so that only the largest is stored.
        """
        path = self.folder / "circuits" / f"{ranking}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._largest(ranking).save(path)
        largest = Circuit.load(path)
        size = circuit_size(largest.layout.n_neurons, fraction)
        return replace(largest, neurons=largest.neurons[:size], scores=largest.scores[:size])

    def _largest(self, ranking: str) -> Circuit:
        scores = (
            cna_lens.rank(self.harmful, self.benign, ranking)
            if ranking in ("contrast", "standardized")
            else cna_lens.score_neurons(self.model, *self.discovery, ranking=ranking, progress=True)
        )
        scores = cna_lens.filter_universal(scores, self.universal)
        return scores.top(max(FRACTIONS), sign=RANKINGS[ranking])

    @cached_property
    def discovery(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Harmful requests and benign ones of their form."""
        prompts = cna_lens.prompt_set("refusal")
        return prompts.positive[: self.n_pairs], prompts.negative[: self.n_pairs]

    @cached_property
    def harmful(self) -> ActivationStats:
        """Activations on the harmful half."""
        return cna_lens.collect(self.model, self.discovery[0], progress=True)

    @cached_property
    def benign(self) -> ActivationStats:
        """Activations on the benign half."""
        return cna_lens.collect(self.model, self.discovery[1], progress=True)

    @cached_property
    def universal(self) -> UniversalNeurons:
        """Neurons that are left out of every circuit."""
        return cna_lens.universal_neurons(self.model, progress=True)

    @cached_property
    def places(self) -> Places:
        """Where vectors are read; where the reference does not say it, they are looked for once."""
        path = self.folder / "places.json"
        if self.reference.places is not None:
            return self.reference.places
        if path.exists():
            return places_in(path)
        return keep(best_places(self.model, *self.discovery), path)

    @cached_property
    def direction(self) -> DirectionalAblation:
        """The direction between harmful and benign requests."""
        return cna_lens.directional_ablation(
            self.model,
            *self.discovery,
            layer=self.places.direction_layer,
            position=self.places.direction_token,
        )

    @cached_property
    def directions(self) -> ControlVectors:
        """The same direction at the input of every layer."""
        return self._differences(*self.discovery)

    @cached_property
    def concepts(self) -> Tensor:
        """A direction of each benign concept, read where the refusals' is."""
        sets = map(cna_lens.prompt_set, CONCEPTS)
        found = [
            self._differences(each.positive[:CONCEPT_PROMPTS], each.negative[:CONCEPT_PROMPTS])
            for each in sets
        ]
        return torch.cat([each.at_layer(self.places.direction_layer).vectors for each in found])

    def _differences(self, positive: tuple[str, ...], negative: tuple[str, ...]) -> ControlVectors:
        return difference_of_means(
            self.model,
            positive,
            negative,
            site="hook_resid_pre",
            position=self.places.direction_token,
        )

    @cached_property
    def mlp_vectors(self) -> VectorAddition:
        """The paper's CAA, on the output of every MLP."""
        return cna_lens.caa(self.model, *self.discovery)

    @cached_property
    def stream_vector(self) -> VectorAddition:
        """CAA as in its source, on the residual stream after one layer."""
        return cna_lens.caa(
            self.model,
            *self.discovery,
            site="hook_resid_post",
            layer=self.places.caa_layer,
            coefficient=max(COEFFICIENTS),
        )

    @cached_property
    def base(self) -> HookedModel:
        """The model that the reference was made from."""
        return cna_lens.load_model(self.reference.base, device="cpu")

    @cached_property
    def without_adapter(self) -> Mapping[str, Tensor]:
        """The weights of the base, where they differ from the reference's."""
        return differing(weights_of(self.base), self.model)

    @cached_property
    def gradient(self) -> Mapping[str, Tensor]:
        """Of the log-odds of a refusal with respect to these weights, on the harmful half."""
        return refusal_gradient(self.model, self.discovery[0], tuple(self.without_adapter))

    @cached_property
    def attacked(self) -> frozenset[Neuron]:
        """Every neuron that some attack changes."""
        largest = (self.circuit(ranking, max(FRACTIONS)) for ranking in RANKINGS)
        return frozenset(chain.from_iterable(largest))
