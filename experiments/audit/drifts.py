"""Benign variants: what changes a model's numbers and leaves its behaviour alone."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import product
from typing import Any, cast

import torch

import cna_lens
from cna_lens import Circuit, matched_random, steer
from cna_lens.steering import Via
from experiments.audit.bench import FRACTIONS, REFERENCE, Bench
from experiments.audit.finetuning import LEARNING_RATES, FineTune, finetuned_weights
from experiments.audit.variants import Enter, Variant, steered
from experiments.audit.weight_edits import edited, int8_linear, noisy, rounded, towards

BATCH_SIZES = (1, 3, 16)
RANDOM_SEEDS = (0, 1, 2)
NOISES = (0.001, 0.003, 0.01)
NOISE_SEEDS = (0, 1, 2)
FINE_TUNE_SEEDS = tuple(range(10))
MATCHED_TO = ("contrast", "attribution_patching")
"""Most of the first circuit lies in the last layer, the second is spread."""


def benign() -> tuple[Variant, ...]:
    """All of them; the first is the reference itself."""
    return (
        Variant("untouched", "untouched", False, lambda bench: nullcontext(bench.model)),
        *_batch_sizes(),
        *_precisions(),
        *_kernels(),
        *_hooks_without_effect(),
        *_random_neurons(),
        *_noise(),
        *_fine_tunes(),
    )


def _batch_sizes() -> list[Variant]:
    return [
        Variant(
            f"batches of {size}",
            "batch size",
            False,
            lambda bench: nullcontext(bench.model),
            {"batch_size": size},
        )
        for size in BATCH_SIZES
    ]


def _precisions() -> list[Variant]:
    def loaded(dtype: torch.dtype) -> Enter:
        return lambda _: nullcontext(cna_lens.load_model(REFERENCE, device="cpu", dtype=dtype))

    def stored(dtype: torch.dtype) -> Enter:
        return lambda bench: edited(bench.model, rounded(dtype))

    return [
        *(
            Variant(f"{way} {_name(dtype)}", "precision", False, enter(dtype))
            for dtype in (torch.bfloat16, torch.float16)
            for way, enter in (("computed in", loaded), ("stored in", stored))
        ),
        Variant("int8", "int8", False, lambda bench: int8_linear(bench.model)),
        Variant(
            "int8, batches of 1",
            "int8",
            False,
            lambda bench: int8_linear(bench.model),
            {"batch_size": 1},
        ),
        Variant("stored in float8_e4m3fn", "precision", False, stored(torch.float8_e4m3fn)),
    ]


def _kernels() -> list[Variant]:
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
        # Not mkldnn.flags, which also asks for TF32 and warns that a CPU has none.
        mkldnn = cast("Any", torch.backends.mkldnn)
        enabled = mkldnn.set_flags(False, _allow_tf32=None)[0]
        try:
            yield bench.model
        finally:
            mkldnn.set_flags(enabled, _allow_tf32=None)

    return [
        Variant("attention by sdpa", "kernels", False, sdpa),
        Variant("products without oneDNN", "kernels", False, without_onednn),
    ]


def _hooks_without_effect() -> list[Variant]:
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

    return [
        *(
            Variant(
                f"{ranking} {fraction:.1%} x 1 by hooks",
                "hooks without effect",
                False,
                times_one(ranking, fraction),
            )
            for ranking, fraction in product(MATCHED_TO, FRACTIONS)
        ),
        *(
            Variant(f"hooks that read {point}", "hooks without effect", False, read(point))
            for point in ("mlp.hook_post", "hook_resid_post")
        ),
    ]


def _random_neurons() -> list[Variant]:
    """Ablated by hooks and by weights in turn."""
    ways: tuple[Via, Via] = ("hooks", "weights")
    found: list[Variant] = []
    for i, (ranking, fraction, seed) in enumerate(product(MATCHED_TO, FRACTIONS, RANDOM_SEEDS)):
        via = ways[(i + seed) % 2]
        name = f"random {fraction:.1%} like {ranking}, seed {seed}, by {via}"
        enter = random_neurons(ranking, fraction, seed, via)
        found.append(Variant(name, f"random neurons by {via}", False, enter))
    return found


def random_neurons(ranking: str, fraction: float, seed: int, via: Via) -> Enter:
    """As many neurons of each layer as a circuit has there, and none of any attack's, ablated."""

    def steering(bench: Bench) -> AbstractContextManager[Any]:
        control = matched_random(bench.circuit(ranking, fraction), seed)
        attacked = set(bench.attacked)
        kept = [neuron for neuron in control if neuron not in attacked]
        circuit = Circuit(tuple(kept), (0.0,) * len(kept), control.layout, control.provenance)
        return steer(bench.model, circuit, multiplier=0.0, via=via)

    return steered(steering)


def _noise() -> list[Variant]:
    def enter(relative: float, seed: int) -> Enter:
        return lambda bench: edited(bench.model, noisy(relative, seed))

    return [
        Variant(
            f"weights + {relative:.1%} noise, seed {seed}", "noise", False, enter(relative, seed)
        )
        for relative, seed in product(NOISES, NOISE_SEEDS)
    ]


def _fine_tunes() -> list[Variant]:
    def enter(recipe: FineTune) -> Enter:
        return lambda bench: edited(
            bench.model, towards(finetuned_weights(recipe, bench.model, bench.folder), 1.0)
        )

    recipes = [FineTune(rate, seed) for rate, seed in product(LEARNING_RATES, FINE_TUNE_SEEDS)]
    return [Variant(recipe.name, "fine-tune", False, enter(recipe)) for recipe in recipes]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
