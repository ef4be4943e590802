"""Rank by a sparse probe: the neurons that tell the two sets apart together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking, check_whole
from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.results.scores import NeuronScores, check_selection, circuit_size


@dataclass(frozen=True)
class Probe(Ranking):
    r"""Coefficients of a sparse logistic probe between the two sets.

    TransformerLens's probe selects the neurons with the largest difference of means on the training
    prompts, standardizes them, and fits

    $$\log \frac{p(\text{positive})}{p(\text{negative})} = b + \sum_{(l,j) \in S} w_{l,j} \,
    \frac{a_{l,j} - \mu_{l,j}}{\sigma_{l,j}}$$

    with an L2 penalty. The score is $w_{l,j}$; neurons outside the support S have none and cannot
    be chosen. A probe shows which information is in the activations, not which information the
    model uses.

    Source: Gurnee et al., arXiv 2305.01610 (maximum mean difference as the selector), by
    TransformerLens's `fit_sparse_probe` (4.1 or later). Cost: one forward pass for each prompt;
    it keeps every prompt's activations, and solves for k coefficients at once.

    Attributes:
        fraction: the support's share of all MLP neurons: ten times the paper's circuit, so that
            enough neurons are left after universal neurons are excluded.
        k: the support's number of neurons, instead of a fraction.
        l2_strength: the penalty.
        test_fraction: share of the prompts of each set that is held out from the fit.
        seed: decides which prompts are held out.
    """

    fraction: float | None = 0.01
    k: int | None = None
    l2_strength: float = 1e-2
    test_fraction: float = 0.3
    seed: int = 0
    name: ClassVar[str] = "probe"
    needs: ClassVar[Needs] = "activations"

    def __post_init__(self) -> None:
        """Replace the fraction by k, if there is one, and reject settings out of range."""
        if self.k is not None:
            object.__setattr__(self, "fraction", None)
        check_selection(self.fraction, self.k)
        if not 0 < self.test_fraction < 1:
            raise InputError(f"test_fraction is {self.test_fraction}, expected between 0 and 1")
        if not 0 < self.l2_strength < math.inf:
            raise InputError(f"l2_strength is {self.l2_strength}, expected a number above 0")
        check_whole("seed", self.seed)

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise InputError without TransformerLens's probe, or with too few prompts."""
        _sparse_probing()
        _check_prompts(n_positive, n_negative)

    def score(self, collected: Collected) -> NeuronScores:
        """Score the neurons of the support."""
        sparse_probing = _sparse_probing()
        if collected.activations is None:
            raise InputError(
                "a probe needs every prompt's activations; pass those of collect(..., keep='all')"
            )
        rows = [_in_own_order(kept.matrix()) for kept in collected.activations]
        _check_prompts(*map(len, rows))
        n_neurons = collected.positive.layout.n_neurons
        try:
            # It takes gradients, of what may have been read in inference mode.
            with torch.inference_mode(mode=False), torch.enable_grad():
                fit = sparse_probing.fit_sparse_probe(
                    torch.cat([side.clone() for side in rows]),
                    torch.cat([torch.ones(len(rows[0])), torch.zeros(len(rows[1]))]).long(),
                    k=circuit_size(n_neurons, self.fraction, self.k),
                    test_fraction=self.test_fraction,
                    preprocess="standardize",
                    l2_strength=self.l2_strength,
                    seed=self.seed,
                )
        except sparse_probing.SparseProbeConvergenceError as error:
            raise InputError(f"{error}; raise l2_strength, or take fewer neurons") from error
        values = torch.zeros(n_neurons, dtype=torch.float64)
        values[fit.selected_features] = fit.coefficients
        support = torch.zeros(n_neurons, dtype=torch.bool)
        support[fit.selected_features] = True
        return collected.scored(self, values, "nats for each standard deviation", support)


def _check_prompts(n_positive: int, n_negative: int) -> None:
    if min(n_positive, n_negative) < 2:
        raise InputError(
            f"a probe needs at least 2 prompts in each set, there are {n_positive} positive and "
            f"{n_negative} negative ones"
        )


def _in_own_order(rows: Float[Tensor, "prompt neuron"]) -> Float[Tensor, "prompt neuron"]:
    """Sort prompts by their activations: the probe holds prompts out by their place."""
    return rows[rows.double().sum(1).argsort()]


def _sparse_probing() -> Any:
    try:
        from transformer_lens.tools.analysis import sparse_probing
    except ImportError as error:
        raise InputError(
            "the ranking 'probe' needs transformer_lens.tools.analysis.sparse_probing, which "
            "TransformerLens has since 4.1; update transformer-lens, or use another ranking"
        ) from error
    return sparse_probing
