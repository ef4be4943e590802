"""The checks on a tiny model of each family with experts, against its slow definition."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import cna_lens
from cna_lens.models import HookedModel
from experiments.families import plain_experts
from experiments.families.architecture import VOCABULARY
from experiments.families.checks import (
    assert_close,
    assert_statistics,
    assert_steering,
    failures_of,
    logits,
)
from experiments.families.mixtures import Mixture
from experiments.shared.random_models import bridge

POSITIVE = [[5, 6, 7], [9, 8, 11, 12, 40], [20], [30, 31, 32, 33]]
NEGATIVE = [[41, 42], [43, 44, 45], [46]]
K = 12


@dataclass(frozen=True)
class TinyMixture:
    """A Hugging Face model, and a copy of it with TransformerLens's hooks."""

    plain: Any
    model: HookedModel

    @classmethod
    def of(cls, family: Mixture) -> TinyMixture:
        """The same weights each time."""
        plain = family.random()
        name = f"tiny-{family.model_type}"
        return cls(plain, bridge(name, copy.deepcopy(plain), vocabulary=VOCABULARY))

    @cached_property
    def layout(self) -> cna_lens.Layout:
        """The neurons that discovery finds; the checks verify them."""
        return cna_lens.collect(self.model, NEGATIVE).layout

    def rows(self, prompts: list[list[int]]) -> Tensor:
        """Each prompt's activations at its last token, by the slow definition."""
        found = [plain_experts.activations(self.plain, ids, self.layout)[0] for ids in prompts]
        return torch.stack(found)

    def circuit(self) -> cna_lens.Circuit:
        """Of both sets of prompts."""
        return cna_lens.find_circuit(
            self.model, POSITIVE, NEGATIVE, k=K, universal=None, progress=False
        )


def neurons(tiny: TinyMixture) -> None:
    """An activation is route weight times gated activation, or 0 if its expert is not chosen."""
    kept = cna_lens.collect(tiny.model, POSITIVE, keep="all")
    assert_close(kept.matrix(), tiny.rows(POSITIVE), "activations")


def circuit(tiny: TinyMixture) -> None:
    """The circuit has the neurons with the largest differences of means, over all experts."""
    found = tiny.circuit()
    differences = tiny.rows(POSITIVE).mean(0) - tiny.rows(NEGATIVE).mean(0)
    places = [found.layout.flat(neuron) for neuron in found]
    assert set(places) == set(differences.abs().topk(K).indices.tolist()), "other neurons"
    assert_close(torch.tensor(found.scores), differences[places], "scores")


def steering(tiny: TinyMixture) -> None:
    """Steering by hooks or by weights equals scaling the inputs of the plain down projections."""
    chosen = tiny.circuit()
    ids = POSITIVE[1]
    assert_steering(
        tiny.model,
        chosen,
        ids,
        lambda multiplier: plain_experts.logits(tiny.plain, ids, _scaled(chosen, multiplier)),
    )


def unsteered(tiny: TinyMixture) -> None:
    """Hook points for experts, without steering, change no bit of the logits."""
    ids = POSITIVE[1]
    before = logits(tiny.model, ids)
    with cna_lens.expert_hooks(tiny.model):
        assert torch.equal(logits(tiny.model, ids), before), "other logits with hook points"
    assert torch.equal(logits(tiny.model, ids), before), "other logits afterwards"


def batches(tiny: TinyMixture) -> None:
    """Batches and shared prefixes change no mean and no variance of an activation."""
    prompts = [[30, 31, 32, 33, 34, *ids] for ids in (*POSITIVE, *NEGATIVE)]
    assert_statistics(tiny.model, prompts, tiny.rows(prompts))


CHECKS: Mapping[str, Callable[[TinyMixture], None]] = MappingProxyType(
    {check.__name__: check for check in (neurons, circuit, steering, unsteered, batches)}
)


@dataclass(frozen=True)
class MixtureOutcome:
    """The result of the checks on a family.

    Attributes:
        layers: the neurons of each layer that every token passes, and its experts with their width.
        failures: the error of each check that failed, by its name.
        refused: why discovery refuses the model, None where it does not.
    """

    layers: tuple[str, ...]
    failures: Mapping[str, str]
    refused: str | None


def outcome(tiny: TinyMixture) -> MixtureOutcome:
    """All checks on one model; one that fails does not keep the others from running."""
    try:
        layout = tiny.layout
    except cna_lens.ModelError as error:
        return MixtureOutcome((), {}, str(error))
    layers = tuple(_says(*layer) for layer in zip(layout.widths, layout.experts, strict=True))
    return MixtureOutcome(layers, failures_of(CHECKS, tiny), None)


def _says(width: int, experts: cna_lens.Experts) -> str:
    dense = width - experts.count * experts.width
    parts = [str(dense)] if dense else []
    if experts.count:
        parts.append(f"{experts.count} experts of {experts.width}")
    return " + ".join(parts)


def _scaled(chosen: cna_lens.Circuit, multiplier: float) -> plain_experts.Change:
    by_mlp = chosen.by_mlp()

    def change(layer: int, expert: int | None, token: int, weighted: Tensor) -> Tensor:  # noqa: ARG001
        weighted = weighted.clone()
        weighted[list(by_mlp.get(cna_lens.MLP(layer, expert), ()))] *= multiplier
        return weighted

    return change
