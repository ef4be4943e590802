"""The checks on a tiny model of each family, against the plain model one prompt at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeVar

import torch
from torch import Tensor

import cna_lens
from cna_lens.models import HookedModel, SharedPrefix
from experiments.families import plain
from experiments.families.tiny_models import N_PLANTED, NEGATIVE, POSITIVE, TinyModel

Tiny = TypeVar("Tiny")

NEW_TOKENS = 5
MULTIPLIERS = (0.0, -1.5)
WAYS: tuple[Literal["hooks", "weights"], ...] = ("hooks", "weights")
WRONG_WIDTH = 7

Check = Callable[[TinyModel], None]


def hook(tiny: TinyModel) -> None:
    """`hook_post` is the true input of the down projection, in every layer, at every position."""
    ids = max(POSITIVE, key=len)
    read: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def note(activation: Tensor, hook: object) -> None:  # noqa: ARG001
            read[layer] = activation[0]

        return note

    names = {layer: f"blocks.{layer}.mlp.hook_post" for layer, w in enumerate(tiny.widths) if w}
    with tiny.model.hooks(fwd_hooks=[(name, keep(layer)) for layer, name in names.items()]):
        logits(tiny.model, ids)
    expected = plain.activations(tiny.plain, tiny.down, ids)
    assert read.keys() == expected.keys(), f"read {sorted(read)}, expected {sorted(expected)}"
    for layer, activation in expected.items():
        assert_close(read[layer], activation, f"layer {layer}")


def circuit(tiny: TinyModel) -> None:
    """Discovery finds exactly the planted neurons; their scores are the differences of means."""
    found = _circuit(tiny, N_PLANTED)
    assert set(found) == tiny.planted, f"found {set(found)}, planted {set(tiny.planted)}"
    differences = tiny.last_activations(POSITIVE).mean(0) - tiny.last_activations(NEGATIVE).mean(0)
    expected = [differences[found.layout.flat(neuron)] for neuron in found]
    assert_close(torch.tensor(found.scores), torch.stack(expected), "scores")


def steering(tiny: TinyModel) -> None:
    """Steering by hooks or by weights equals scaling the input of the plain down projection."""
    chosen = _circuit(tiny, 2 * N_PLANTED)
    ids = POSITIVE[0]

    def scaled(multiplier: float) -> Tensor:
        with plain.changed(tiny.down, _scaled(chosen, multiplier)):
            return plain.logits(tiny.plain, ids)

    assert_steering(tiny.model, chosen, ids, scaled)
    assert_close(logits(tiny.model, ids), plain.logits(tiny.plain, ids), "afterwards")


def batches(tiny: TinyModel) -> None:
    """Batches and shared prefixes change no mean and no variance of an activation."""
    prompts = [*POSITIVE, *NEGATIVE]
    assert_statistics(tiny.model, prompts, tiny.last_activations(prompts).double())


def widths(tiny: TinyModel) -> None:
    """Layer widths come from the tensors, even if the configuration gives another width."""
    said = tiny.model.cfg.d_mlp
    tiny.model.cfg.d_mlp = WRONG_WIDTH
    try:
        layout = cna_lens.collect(tiny.model, POSITIVE).layout
    finally:
        tiny.model.cfg.d_mlp = said
    assert layout.widths == tiny.widths, f"{layout.widths}, expected {tiny.widths}"


def answers(tiny: TinyModel) -> None:
    """Steered answers in a batch equal those of the plain model, computed without a cache."""
    chosen = _circuit(tiny, 2 * N_PLANTED)
    stops = {tiny.model.tokenizer.eos_token_id}
    multiplier = MULTIPLIERS[0]
    with plain.changed(tiny.down, _scaled(chosen, multiplier)):
        expected = [
            plain.greedy(tiny.plain, ids, NEW_TOKENS, stops) for ids in (*POSITIVE, NEGATIVE[0])
        ]
    with cna_lens.steer(tiny.model, chosen, multiplier, via="hooks"):
        found = cna_lens.generate(tiny.model, [*POSITIVE, NEGATIVE[0]], max_new_tokens=NEW_TOKENS)
    texts = [tiny.model.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert found == texts, f"{found}, expected {texts}"


CHECKS: Mapping[str, Check] = MappingProxyType(
    {check.__name__: check for check in (hook, circuit, steering, batches, widths, answers)}
)


@dataclass(frozen=True)
class Outcome:
    """The result of the checks on a family.

    Attributes:
        widths: neurons of each layer; empty where they cannot be reached.
        failures: the error of each check that failed, by its name.
        refused: why discovery refuses the model, None where it does not.
        not_shared: why no prefix is shared, None where one is.
    """

    widths: tuple[int, ...]
    failures: Mapping[str, str]
    refused: str | None
    not_shared: str | None


def outcome(tiny: TinyModel) -> Outcome:
    """All checks on one model; one that fails does not keep the others from running."""
    with warnings.catch_warnings():
        # Warnings say why a model is slow, which the outcome says too.
        warnings.simplefilter("ignore", cna_lens.CnaLensWarning)
        return _outcome(tiny)


def _outcome(tiny: TinyModel) -> Outcome:
    if refused := _refusal(tiny):
        return Outcome((), {}, refused, None)
    failures = failures_of(CHECKS, tiny)
    prefix = SharedPrefix.of(tiny.model, [tuple(ids) for ids in POSITIVE])
    return Outcome(tiny.widths, failures, None, prefix.reason)


def failures_of(checks: Mapping[str, Callable[[Tiny], None]], tiny: Tiny) -> dict[str, str]:
    """The error of each check that fails on a model, by the check's name."""
    failures: dict[str, str] = {}
    for name, check in checks.items():
        try:
            check(tiny)
        # Any error at all is a result.
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {error}"
    return failures


def _refusal(tiny: TinyModel) -> str | None:
    try:
        _circuit(tiny, 1)
    except cna_lens.ModelError as error:
        return str(error)
    return None


def _circuit(tiny: TinyModel, k: int) -> cna_lens.Circuit:
    return cna_lens.find_circuit(
        tiny.model, POSITIVE, NEGATIVE, k=k, universal=None, progress=False
    )


def _scaled(chosen: cna_lens.Circuit, multiplier: float) -> plain.Change:
    by_layer = chosen.by_layer()

    def change(layer: int, activation: Tensor) -> Tensor:
        activation = activation.clone()
        activation[..., list(by_layer.get(layer, ()))] *= multiplier
        return activation

    return change


def logits(model: HookedModel, ids: list[int]) -> Tensor:
    """The logits at each position, through TransformerLens."""
    with torch.no_grad():
        return model.forward(torch.tensor([ids]), return_type="logits")[0]


def assert_steering(
    model: HookedModel,
    chosen: cna_lens.Circuit,
    ids: list[int],
    scaled: Callable[[float], Tensor],
) -> None:
    """Fail unless both ways to steer give the logits that the plain model has, scaled by hand."""
    unsteered = scaled(1.0)
    assert_close(logits(model, ids), unsteered, "unsteered")
    for multiplier in MULTIPLIERS:
        expected = scaled(multiplier)
        assert not torch.allclose(expected, unsteered, rtol=1e-2, atol=1e-2), "nothing changed"
        for via in WAYS:
            with cna_lens.steer(model, chosen, multiplier, via=via):
                assert_close(logits(model, ids), expected, f"via {via}, m = {multiplier}")


def assert_statistics(model: HookedModel, prompts: list[list[int]], expected: Tensor) -> None:
    """Fail unless all ways to batch give the mean and variance of the expected activations."""
    for options in ({"share_prefix": False, "batch_size": 1}, {"batch_size": 3}, {}):
        stats = cna_lens.collect(model, prompts, **options)
        assert_close(stats.mean, expected.mean(0), f"mean with {options}")
        assert_close(stats.variance, expected.var(0), f"variance with {options}")


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    """Fail with the name of the value unless float32 explains the difference."""
    torch.testing.assert_close(
        found.double(),
        expected.double(),
        rtol=1e-4,
        atol=1e-5 * float(expected.abs().max().clamp(min=1)),
        msg=lambda difference: f"{what}: {difference}",
    )
