"""The rankings that are compared, and their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cna_lens
from cna_lens import NeuronScores
from cna_lens.discovery import RandomScores
from cna_lens.models import HookedModel

QUESTION = "Which ranking finds the neurons that refusals depend on, at equal size?"
RANKINGS = ("contrast", "standardized", "output_weighted", "attribution_patching", "relp")


def scored(
    model: HookedModel,
    positive: Sequence[str],
    negative: Sequence[str],
    rankings: Iterable[str] = RANKINGS,
    random_seeds: Iterable[int] = (),
) -> dict[str, NeuronScores]:
    """The neurons' scores by each ranking, and by a random one for each seed."""
    chosen = {name: name for name in rankings}
    chosen |= {f"random {seed}": RandomScores(seed) for seed in random_seeds}
    return {
        name: cna_lens.score_neurons(model, positive, negative, ranking, progress=True)
        for name, ranking in chosen.items()
    }
