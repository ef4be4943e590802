"""Rankings where neurons were changed at random and no behaviour was planted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import cna_lens
from cna_lens import LogOdds
from cna_lens.evidence import recovery
from cna_lens.metrics import BEHAVIOURS


def figures(name: str) -> Iterator[dict[str, Any]]:
    """One row for each behaviour's prompts and each ranking: how far it finds the changed neurons.

    The model shows no behaviour, so that the changed neurons are no truth. A ranking that finds
    them sees that weights were changed, and not what they do.
    """
    model, changed = cna_lens.load_model(name, device="cpu"), cna_lens.planted_truth(name)
    for behaviour in BEHAVIOURS.values():
        asked = behaviour.discovery
        for ranking in cna_lens.RANKINGS.values():
            if hasattr(ranking, "metric"):
                ranking = replace(ranking, metric=LogOdds(behaviour.openings))
            scores = cna_lens.score_neurons(model, asked.positive, asked.negative, ranking)
            found = asdict(recovery(scores, changed))
            yield {"prompts": behaviour.name, **found, "ranking": ranking.name}
