"""A tiny random model with planted neurons: the Hugging Face model and a TransformerBridge."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from cna_lens.models import HookedModel
from experiments.families import plain
from experiments.families.architecture import VOCABULARY
from experiments.families.families import Family
from experiments.families.pruned_llama import allow_layers_without_mlp
from experiments.shared.random_models import bridge, word_tokenizer

N_PLANTED = 3
GAIN = 1000
"""Factor by which a planted neuron's activation is enlarged."""

# All begin alike, and some are longer than the sliding windows.
_PREFIX = (9, 14, 30, 31, 32)
POSITIVE = [
    [*_PREFIX, *rest] for rest in ([5, 6, 7], [8, 3, 4, 33, 34, 35, 36], [40, 41], [50, 5, 51, 6])
]
NEGATIVE = [[*_PREFIX, *rest] for rest in ([43, 44, 45], [46, 47], [48, 49, 50, 51, 52, 53])]


@dataclass(frozen=True)
class TinyModel:
    """A model with planted neurons, and the same model with TransformerLens's hooks.

    Attributes:
        family: its family.
        plain: the Hugging Face model.
        model: a copy of it in a TransformerBridge.
        planted: the neurons, as (layer, index), that were made louder.
    """

    family: Family
    plain: nn.Module
    model: HookedModel
    planted: frozenset[tuple[int, int]]

    @cached_property
    def down(self) -> list[nn.Module | None]:
        """Each layer's down projection in the plain model; None for a layer without an MLP."""
        return _projections(self.plain, self.family, self.family.down)

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each layer, by the plain model's weights."""
        return tuple(0 if down is None else _by_output(down).shape[1] for down in self.down)

    def last_activations(self, prompts: list[list[int]]) -> Tensor:
        """All neurons at each prompt's last token, one prompt at a time, as [prompt, neuron]."""
        return _last_activations(self.plain, self.down, prompts)


def tiny_model(family: Family) -> TinyModel:
    """A model of the family; the same weights each time."""
    model = family.random()
    planted = _plant(model, family) if family.reachable else frozenset[tuple[int, int]]()
    return TinyModel(family, model, _boot(family, copy.deepcopy(model)), planted)


def _boot(family: Family, model: nn.Module) -> HookedModel:
    name = f"tiny-{family.model_type}"
    if not family.prune:
        return bridge(name, model, vocabulary=VOCABULARY)
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    with tempfile.TemporaryDirectory() as folder:
        pruned = build_bridge_from_module(
            model,
            family.architecture,
            hf_config=model.config,
            tokenizer=word_tokenizer(Path(folder), VOCABULARY),
            model_name=name,
            post_adapter_hook=allow_layers_without_mlp,
        )
    return pruned.eval()


def _plant(model: nn.Module, family: Family) -> frozenset[tuple[int, int]]:
    """Make some neurons' activations larger, and the weights that they are multiplied with smaller.

    The neurons with the median difference between the prompts are taken, which discovery would not
    find otherwise. Differences are of the positive parts, since the activation function may map a
    larger negative input to nearly 0.
    """
    down = _projections(model, family, family.down)
    up = _projections(model, family, family.up)
    positive, negative = (
        _last_activations(model, down, prompts).relu().mean(0) for prompts in (POSITIVE, NEGATIVE)
    )
    order = (positive - negative).abs().argsort()
    middle = order[len(order) // 2 :][:N_PLANTED].tolist()
    places = [
        (layer, index)
        for layer, projection in enumerate(down)
        if projection is not None
        for index in range(_by_output(projection).shape[1])
    ]
    planted = frozenset(places[flat] for flat in middle)
    with torch.no_grad():
        for layer, index in planted:
            reading, writing = cast("nn.Module", up[layer]), cast("nn.Module", down[layer])
            width = _by_output(writing).shape[1]
            _by_output(reading)[-width:][index] *= GAIN
            if getattr(reading, "bias", None) is not None:
                cast("Tensor", reading.bias)[-width:][index] *= GAIN
            _by_output(writing)[:, index] /= GAIN
    return planted


def _projections(model: nn.Module, family: Family, name: str) -> list[nn.Module | None]:
    n_layers = int(cast("Any", model).config.get_text_config().num_hidden_layers)
    modules = dict(model.named_modules())
    return [modules.get(f"{family.mlp.format(layer)}.{name}") for layer in range(n_layers)]


def _by_output(projection: nn.Module) -> Tensor:
    """The projection's matrix as [output, input], which GPT-2 stores the other way round."""
    weight = cast("Tensor", projection.weight)
    return weight.t() if type(projection).__name__ == "Conv1D" else weight


def _last_activations(
    model: nn.Module, down: list[nn.Module | None], prompts: list[list[int]]
) -> Tensor:
    rows = [plain.activations(model, down, ids) for ids in prompts]
    return torch.stack([torch.cat([row[layer][-1] for layer in sorted(row)]) for row in rows])
