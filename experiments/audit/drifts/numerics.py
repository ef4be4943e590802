"""Drifts of numbers: other precisions, kernels and batches, hooks, random neurons, noise."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from typing import Any, cast

import torch

from cna_lens import Circuit, matched_random, steer
from cna_lens.models import HookedModel
from cna_lens.steering import Via
from experiments.audit.bench import FRACTIONS, Bench
from experiments.audit.variants import Changes, Enter, Variant, steered
from experiments.audit.weight_edits import edited, int8_linear, noisy, rounded

BATCH_SIZES = (1, 3, 16)
RANDOM_SEEDS = (0, 1, 2)
NOISES = (0.001, 0.003, 0.01)
NOISE_SEEDS = (0, 1, 2)
MATCHED_TO = ("contrast", "attribution_patching")
"""The first ranking's circuit lies mostly in the last layer; the second's is spread."""


def as_it_is() -> tuple[Variant, ...]:
    """The reference itself, also in batches of other sizes, and in int8 one at a time."""
    return (
        Variant("untouched", "untouched", False, _untouched),
        *(
            Variant(f"batches of {n}", "batch size", False, _untouched, {"batch_size": n})
            for n in BATCH_SIZES
        ),
        Variant("int8, batches of 1", "int8", False, _in_int8, {"batch_size": 1}),
    )


def numerical() -> Changes:
    """Drifts that no training brings about."""
    yield from _precisions()
    yield from _kernels()
    yield from _hooks_without_effect()
    yield from _random_neurons()
    yield from _noise()


def _untouched(bench: Bench) -> AbstractContextManager[HookedModel]:
    return nullcontext(bench.model)


def _in_int8(bench: Bench) -> AbstractContextManager[HookedModel]:
    return int8_linear(bench.model)


def _precisions() -> Changes:
    def loaded(dtype: torch.dtype) -> Enter:
        return lambda bench: nullcontext(bench.reference.load(dtype))

    def stored(dtype: torch.dtype) -> Enter:
        return lambda bench: edited(bench.model, rounded(dtype))

    for dtype in (torch.bfloat16, torch.float16):
        yield f"computed in {_name(dtype)}", "precision", loaded(dtype)
        yield f"stored in {_name(dtype)}", "precision", stored(dtype)
    yield "int8", "int8", _in_int8
    yield "stored in float8_e4m3fn", "precision", stored(torch.float8_e4m3fn)


def _kernels() -> Changes:
    @contextmanager
    def sdpa(bench: Bench) -> Generator[Any]:
        module = cast("Any", bench.model).original_model
        before = module.config._attn_implementation
        module.set_attn_implementation("sdpa")
        try:
            yield bench.model
        finally:
            module.set_attn_implementation(before)

    @contextmanager
    def without_onednn(bench: Bench) -> Generator[Any]:
        # mkldnn.flags would also set TF32, and warn that a CPU has none.
        mkldnn = cast("Any", torch.backends.mkldnn)
        enabled = mkldnn.set_flags(False, _allow_tf32=None)[0]
        try:
            yield bench.model
        finally:
            mkldnn.set_flags(enabled, _allow_tf32=None)

    yield "attention by sdpa", "kernels", sdpa
    yield "products without oneDNN", "kernels", without_onednn


def _hooks_without_effect() -> Changes:
    def times_one(ranking: str, fraction: float) -> Enter:
        return steered(
            lambda bench: steer(
                bench.model, bench.circuit(ranking, fraction), multiplier=1.0, via="hooks"
            )
        )

    def read(point: str) -> Enter:
        return steered(
            lambda bench: cast("Any", bench.model).hooks(
                [
                    (f"blocks.{layer}.{point}", lambda value, hook: None)  # noqa: ARG005
                    for layer in range(bench.model.cfg.n_layers)
                ]
            )
        )

    kind = "hooks without effect"
    for ranking, fraction in product(MATCHED_TO, FRACTIONS):
        yield f"{ranking} {fraction:.1%} x 1 by hooks", kind, times_one(ranking, fraction)
    for point in ("mlp.hook_post", "hook_resid_post"):
        yield f"hooks that read {point}", kind, read(point)


def _random_neurons() -> Changes:
    """Ablated by hooks and by weights in turn."""
    ways: tuple[Via, Via] = ("hooks", "weights")
    for i, (ranking, fraction, seed) in enumerate(product(MATCHED_TO, FRACTIONS, RANDOM_SEEDS)):
        via = ways[(i + seed) % 2]
        name = f"random {fraction:.1%} like {ranking}, seed {seed}, by {via}"
        yield name, f"random neurons by {via}", random_neurons(ranking, fraction, seed, via)


def random_neurons(ranking: str, fraction: float, seed: int, via: Via) -> Enter:
    """Ablate as many random neurons of each layer as a circuit has, none of them attacked."""

    def steering(bench: Bench) -> AbstractContextManager[Any]:
        control = matched_random(bench.circuit(ranking, fraction), seed)
        attacked = set(bench.attacked)
        kept = [neuron for neuron in control if neuron not in attacked]
        circuit = Circuit(tuple(kept), (0.0,) * len(kept), control.layout, control.provenance)
        return steer(bench.model, circuit, multiplier=0.0, via=via)

    return steered(steering)


def _noise() -> Changes:
    def enter(relative: float, seed: int) -> Enter:
        return lambda bench: edited(bench.model, noisy(relative, seed))

    for relative, seed in product(NOISES, NOISE_SEEDS):
        yield f"weights + {relative:.1%} noise, seed {seed}", "noise", enter(relative, seed)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
