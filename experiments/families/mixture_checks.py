"""What is checked on a tiny model of each family with experts, against its slow definition."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

import cna_lens
from cna_lens.models import HookedModel
from experiments.families import plain_experts
from experiments.families.checks import MULTIPLIERS, WAYS, assert_close
from experiments.families.mixtures import VOCABULARY, Mixture, random_mixture
from experiments.shared.random_models import word_tokenizer

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
        from transformer_lens.model_bridge import TransformerBridge

        plain = random_mixture(family)
        with tempfile.TemporaryDirectory() as folder:
            model = TransformerBridge.boot_transformers(
                f"tiny-{family.model_type}",
                hf_model=copy.deepcopy(plain),
                tokenizer=word_tokenizer(Path(folder), VOCABULARY),
                device="cpu",
                dtype=torch.float32,
            )
        return cls(plain, model.eval())

    @cached_property
    def layout(self) -> cna_lens.Layout:
        """The neurons that discovery finds; the checks tell whether they are those."""
        return cna_lens.collect(self.model, NEGATIVE).layout

    def rows(self, prompts: list[list[int]]) -> Tensor:
        """Each prompt's activations at its last token, by the slow definition."""
        found = [plain_experts.activations(self.plain, ids, self.layout)[0] for ids in prompts]
        return torch.stack(found)

    def logits(self, ids: list[int]) -> Tensor:
        """Through TransformerLens."""
        with torch.no_grad():
            return self.model.forward(torch.tensor([ids]), return_type="logits")[0]

    def circuit(self) -> cna_lens.Circuit:
        """Of both sets of prompts."""
        return cna_lens.find_circuit(
            self.model, POSITIVE, NEGATIVE, k=K, universal=None, progress=False
        )


def neurons(tiny: TinyMixture) -> None:
    """What is read of a neuron is route weight times gated activation, 0 where not routed."""
    kept = cna_lens.collect(tiny.model, POSITIVE, keep="all")
    assert_close(kept.matrix(), tiny.rows(POSITIVE), "activations")


def circuit(tiny: TinyMixture) -> None:
    """The circuit is the top of the differences of the means, over all experts' neurons."""
    found = tiny.circuit()
    differences = tiny.rows(POSITIVE).mean(0) - tiny.rows(NEGATIVE).mean(0)
    places = [found.layout.flat(neuron) for neuron in found]
    assert set(places) == set(differences.abs().topk(K).indices.tolist()), "other neurons"
    assert_close(torch.tensor(found.scores), differences[places], "scores")


def steering(tiny: TinyMixture) -> None:
    """Steering by hooks and by weights is scaling what the plain down projections read."""
    chosen = tiny.circuit()
    ids = POSITIVE[1]
    unsteered = plain_experts.logits(tiny.plain, ids)
    assert_close(tiny.logits(ids), unsteered, "unsteered")
    for multiplier in MULTIPLIERS:
        expected = plain_experts.logits(tiny.plain, ids, _scaled(chosen, multiplier))
        assert not torch.allclose(expected, unsteered, rtol=1e-2, atol=1e-2), "nothing changed"
        for via in WAYS:
            with cna_lens.steer(tiny.model, chosen, multiplier, via=via):
                assert_close(tiny.logits(ids), expected, f"via {via}, m = {multiplier}")


def unsteered(tiny: TinyMixture) -> None:
    """With experts' hook points in place and nothing steered, no bit of the logits changes."""
    ids = POSITIVE[1]
    before = tiny.logits(ids)
    with cna_lens.expert_hooks(tiny.model):
        assert torch.equal(tiny.logits(ids), before), "other logits with hook points"
    assert torch.equal(tiny.logits(ids), before), "other logits afterwards"


def batches(tiny: TinyMixture) -> None:
    """Batches and shared prefixes change no statistics."""
    prompts = [[30, 31, 32, 33, 34, *ids] for ids in (*POSITIVE, *NEGATIVE)]
    expected = tiny.rows(prompts)
    for options in ({"share_prefix": False, "batch_size": 1}, {"batch_size": 3}, {}):
        stats = cna_lens.collect(tiny.model, prompts, **options)
        assert_close(stats.mean, expected.mean(0), f"mean with {options}")
        assert_close(stats.variance, expected.var(0), f"variance with {options}")


CHECKS: Mapping[str, Callable[[TinyMixture], None]] = MappingProxyType(
    {check.__name__: check for check in (neurons, circuit, steering, unsteered, batches)}
)


@dataclass(frozen=True)
class MixtureOutcome:
    """What was found of a family.

    Attributes:
        layers: what each layer has: neurons that every token passes, and experts by their width.
        failures: what went wrong, by the name of the check.
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
    failures: dict[str, str] = {}
    for name, check in CHECKS.items():
        try:
            check(tiny)
        # Whatever goes wrong is what is found.
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
    layers = zip(layout.widths, layout.experts, strict=True)
    return MixtureOutcome(tuple(_says(*layer) for layer in layers), failures, None)


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
