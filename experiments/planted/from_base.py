"""How far the change from the untrained model finds the planted neurons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import cna_lens
from cna_lens import ChangeFromBase
from cna_lens.evidence import recovery
from cna_lens.metrics import BEHAVIOURS
from cna_lens.models import planting

N_PROMPTS = 20


def figures() -> Iterator[dict[str, Any]]:
    """One row for each planted model: how far `ChangeFromBase` finds its neurons.

    It reads the first positive prompts of the model's behaviour; where nothing is planted, those
    about cooking.
    """
    ranking = ChangeFromBase(cna_lens.load_model("demo", device="cpu"))
    for name in cna_lens.planted_models():
        planted = planting(name)
        asked = BEHAVIOURS[planted.behaviour or "french"].discovery
        scores = cna_lens.score_neurons(
            cna_lens.load_model(name, device="cpu"),
            asked.positive[:N_PROMPTS],
            asked.negative[:N_PROMPTS],
            ranking,
        )
        found = recovery(scores, cna_lens.planted_truth(name))
        yield {"model": name, "split": planted.split, **asdict(found), "ranking": ranking.name}
