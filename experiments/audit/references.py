"""The models of the study: how each is loaded, and where its best vectors are."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM

import cna_lens
from cna_lens import InputError, steering
from cna_lens.metrics import refusal_log_odds
from cna_lens.models import (
    ADAPTER_SHA256,
    PLANTED_PREFIX,
    HookedModel,
    Planting,
    demo_gguf,
    dequantised_folder,
    merge_adapter,
    planting,
)
from cna_lens.results import write_atomically
from experiments.planted.loading import loaded
from experiments.planted.recipes import recipe_of
from experiments.planted.train import file_of, finished

REFERENCE = "demo-refusal"
MADE = Path("out/planted")
"""Where `python -m experiments.planted make` leaves models that are not packaged."""

TOKENS = (-1, -2)
TRIED_ON = 8
"""Number of harmful requests on which places of vectors are compared."""


@dataclass(frozen=True)
class Places:
    """Where vectors are read that remove most refusals.

    Attributes:
        direction_layer: the block at whose input the direction is read.
        direction_token: the token at which it is read.
        caa_layer: the block after which CAA's vector is read and added.
    """

    direction_layer: int
    direction_token: int
    caa_layer: int


@dataclass(frozen=True)
class Reference:
    """A model that refuses, and the one that it was made from.

    Attributes:
        name: a name for `load_model`, or a planted model that is made but not packaged.
        base: the name of the model without the adapter, or without the planted neurons.
        places: where its vectors are read; None if they are to be found.
    """

    name: str
    base: str = "demo"
    places: Places | None = None

    @property
    def folder_name(self) -> str:
        """The name of the folder of its records."""
        return self.name.replace("/", "-")

    def load(self, dtype: torch.dtype = torch.float32) -> HookedModel:
        """Load it as a bridge."""
        if (made := self._made()) is not None:
            return loaded(made, self.name, dtype)
        return cna_lens.load_model(self.name, device="cpu", dtype=dtype)

    def hugging_face(self) -> Any:
        """Load it as a Hugging Face model in float32, whose weights can be trained."""
        model = AutoModelForCausalLM.from_pretrained(
            dequantised_folder(demo_gguf()), dtype=torch.float32
        )
        if self.name in ADAPTER_SHA256:
            made = merge_adapter(model, self.name)
        else:
            made = (self._made() or planting(self.name)).added_to(model)
        # Merging an adapter leaves the weights frozen.
        return made.requires_grad_(True)

    def _made(self) -> Planting | None:
        """The planted model below `MADE`; None for a packaged model.

        Raises:
            InputError: it is neither packaged nor made.
        """
        if not self.name.startswith(PLANTED_PREFIX) or self.name in cna_lens.planted_models():
            return None
        name = self.name.removeprefix(PLANTED_PREFIX)
        if not file_of(recipe_of(name), MADE).is_file():
            raise InputError(
                f"{self.name} is not packaged, and {MADE} does not have it; make it with "
                f"`python -m experiments.planted make {name}`"
            )
        return finished(name, MADE)


REFERENCES: Final = {
    each.name: each
    for each in (
        # As experiments.demo.compare found them.
        Reference(REFERENCE, places=Places(15, -2, 12)),
        Reference("demo-refusal-late"),
        Reference("planted/refusal-138-all-0"),
        Reference("planted/refusal-138-all-1"),
    )
}
"""The models of the study by their names."""


def reference_of(name: str) -> Reference:
    """The model of the study of that name.

    Raises:
        InputError: there is none.
    """
    if name not in REFERENCES:
        raise InputError(
            f"there is no model {name!r} in the study; there are: {', '.join(REFERENCES)}"
        )
    return REFERENCES[name]


def best_places(model: HookedModel, harmful: tuple[str, ...], benign: tuple[str, ...]) -> Places:
    """Find the places whose vectors lower the log-odds of a refusal most.

    A direction is erased at full strength, CAA's vector subtracted once. Every second block from a
    fifth to four fifths of the depth is tried, on a few of the harmful requests.
    """
    n_layers = int(model.cfg.n_layers)
    layers = range(max(1, n_layers // 5), math.ceil(0.8 * n_layers), 2)
    asked = harmful[:TRIED_ON]
    places = [(layer, token) for token in TOKENS for layer in layers]
    direction = _lowest(
        model,
        asked,
        steering.directional_ablation_candidates(
            model, harmful, benign, layers=layers, read_at=TOKENS
        ),
    )
    vector = _lowest(
        model,
        asked,
        steering.caa_candidates(model, harmful, benign, site="hook_resid_post", layers=layers),
    )
    return Places(*places[direction], layers[vector])


def places_in(path: Path) -> Places:
    """Read the places that `keep` wrote."""
    return Places(**json.loads(path.read_text(encoding="utf-8")))


def keep(places: Places, path: Path) -> Places:
    """Write places to a file."""
    write_atomically(path, json.dumps(asdict(places), indent=1) + "\n")
    return places


def _lowest(
    model: HookedModel, asked: tuple[str, ...], methods: Iterable[steering.SteeringMethod]
) -> int:
    means: list[float] = []
    for method in methods:
        with method.at(model):
            means.append(math.fsum(refusal_log_odds(model, asked)) / len(asked))
    return means.index(min(means))
