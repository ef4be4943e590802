"""The reference model, and the circuits and vectors of attacks and their controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

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
from experiments.audit.weight_edits import differing, weights_of

REFERENCE = "demo-refusal"
WITHOUT_ADAPTER = "demo"

RANKINGS: Mapping[str, Sign] = {
    "contrast": "abs",
    "standardized": "abs",
    "attribution_patching": "positive",
    "relp": "positive",
}
"""The rankings of the attacks, each with the sign of the scores that count."""

FRACTIONS = (0.001, 0.003, 0.01)
DIRECTION_LAYER, DIRECTION_TOKEN = 15, -2
"""Place of the direction that removes most refusals, as experiments.demo.compare found it."""

COEFFICIENTS = (0.5, 1.0, 2.0)
CAA_LAYER = 12
"""The layer that experiments.demo.compare chose for CAA on the residual stream."""


@dataclass(frozen=True, eq=False)
class Bench:
    """The parts of variants; each part is found at its first use.

    Attributes:
        model: the reference, whose fingerprint is taken.
        folder: keeps circuits and adapters for the next run.
        n_pairs: number of pairs of the packaged discovery set for circuits and vectors.
    """

    model: HookedModel
    folder: Path
    n_pairs: int = 50

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
    def direction(self) -> DirectionalAblation:
        """The direction between harmful and benign requests."""
        return cna_lens.directional_ablation(
            self.model, *self.discovery, layer=DIRECTION_LAYER, position=DIRECTION_TOKEN
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
            layer=CAA_LAYER,
            coefficient=max(COEFFICIENTS),
        )

    @cached_property
    def without_adapter(self) -> Mapping[str, Tensor]:
        """The weights without the adapter, where they differ from the reference's."""
        untrained = weights_of(cna_lens.load_model(WITHOUT_ADAPTER, device="cpu"))
        return differing(untrained, self.model)

    @cached_property
    def attacked(self) -> frozenset[Neuron]:
        """Every neuron that some attack changes."""
        largest = (self.circuit(ranking, max(FRACTIONS)) for ranking in RANKINGS)
        return frozenset(chain.from_iterable(largest))
