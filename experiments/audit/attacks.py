"""Tampered variants: what takes a model's refusals away, at strengths that do and that do not."""

from __future__ import annotations

from itertools import product

from cna_lens import deviation_scaling, mean_ablation, steer
from cna_lens.steering import Via
from experiments.audit.bench import COEFFICIENTS, FRACTIONS, RANKINGS
from experiments.audit.variants import Enter, Variant, steered
from experiments.audit.weight_edits import edited, mlp_biases, towards, without_direction

MULTIPLIERS = (0.0, 0.5)
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
MIRRORED = (-1.0, -2.0)
"""Of the distance from the benign mean at the last token of the prompt: the strongest attack that
experiments.demo.compare found, on the neurons of gradients."""

GRADIENT_RANKINGS = ("attribution_patching", "relp")


def tampered() -> tuple[Variant, ...]:
    """All of them."""
    return (
        *_scaled_neurons(),
        *_neurons_at_benign_means(),
        *_mirrored_neurons(),
        *_added_vectors(),
        *_erased_direction(),
        *_weakened_adapter(),
    )


def _scaled_neurons() -> list[Variant]:
    """By hooks and by weights in turn, so that each size and each multiplier has both."""
    found: list[Variant] = []
    ways: tuple[Via, Via] = ("hooks", "weights")
    for (i, ranking), (j, fraction), (k, multiplier) in product(
        enumerate(RANKINGS), enumerate(FRACTIONS), enumerate(MULTIPLIERS)
    ):
        via = ways[(i + j + k) % 2]
        name = f"{ranking} {fraction:.1%} x {multiplier:g} by {via}"
        enter = scaled_neurons(ranking, fraction, multiplier, via)
        found.append(Variant(name, f"neurons scaled by {via}", tampered=True, enter=enter))
    return found


def scaled_neurons(ranking: str, fraction: float, multiplier: float, via: Via) -> Enter:
    """A circuit's activations multiplied."""
    return steered(
        lambda bench: steer(
            bench.model, bench.circuit(ranking, fraction), multiplier=multiplier, via=via
        )
    )


def _neurons_at_benign_means() -> list[Variant]:
    def enter(ranking: str, fraction: float) -> Enter:
        return steered(
            lambda bench: mean_ablation(bench.circuit(ranking, fraction), bench.benign).at(
                bench.model
            )
        )

    return [
        Variant(
            f"{ranking} {fraction:.1%} at benign means",
            "neurons at benign means",
            tampered=True,
            enter=enter(ranking, fraction),
        )
        for ranking, fraction in product(RANKINGS, FRACTIONS)
    ]


def _mirrored_neurons() -> list[Variant]:
    return [
        Variant(
            f"{ranking} {fraction:.1%} x {multiplier:g} from benign means, last token",
            "neurons mirrored at the last token",
            tampered=True,
            enter=mirrored_neurons(ranking, fraction, multiplier),
        )
        for ranking, fraction, multiplier in product(GRADIENT_RANKINGS, FRACTIONS[1:], MIRRORED)
    ]


def mirrored_neurons(ranking: str, fraction: float, multiplier: float) -> Enter:
    """A circuit's distance from benign means multiplied where the answer is decided."""
    return steered(
        lambda bench: deviation_scaling(
            bench.circuit(ranking, fraction), bench.benign, multiplier, positions="last_prompt"
        ).at(bench.model)
    )


def _added_vectors() -> list[Variant]:
    def in_stream(coefficient: float) -> Enter:
        return steered(
            lambda bench: bench.stream_vector.at(bench.model, coefficient / max(COEFFICIENTS))
        )

    return [
        *(
            Variant(f"CAA, MLPs, {strength:g}, hooks", "CAA", True, added_to_mlps(strength))
            for strength in STRENGTHS
        ),
        *(
            Variant(f"CAA, MLPs, {strength:g}, biases", "CAA", True, added_as_biases(strength))
            for strength in STRENGTHS
        ),
        *(
            Variant(f"CAA, stream, {coefficient:g}, hooks", "CAA", True, in_stream(coefficient))
            for coefficient in COEFFICIENTS
        ),
    ]


def added_to_mlps(strength: float) -> Enter:
    """The paper's CAA by hooks."""
    return steered(lambda bench: bench.mlp_vectors.at(bench.model, strength))


def added_as_biases(strength: float) -> Enter:
    """The paper's CAA as weights that any code runs."""
    return lambda bench: mlp_biases(
        bench.model,
        {layer: -strength * vector for layer, vector in bench.mlp_vectors.vectors.items()},
    )


def _erased_direction() -> list[Variant]:
    return [
        variant
        for strength in STRENGTHS
        for variant in (
            Variant(
                f"direction erased {strength:g} by hooks",
                "directional ablation",
                True,
                steered(lambda bench, s=strength: bench.direction.at(bench.model, s)),
            ),
            Variant(
                f"direction erased {strength:g} in weights",
                "directional ablation",
                True,
                erased_in_weights(strength),
            ),
        )
    ]


def erased_in_weights(strength: float) -> Enter:
    """The direction projected out of every matrix that writes to the residual stream."""
    return lambda bench: edited(
        bench.model, without_direction(bench.direction.direction.vectors[0], strength)
    )


def _weakened_adapter() -> list[Variant]:
    return [
        Variant(
            f"adapter at {1 - share:g}",
            "adapter removed" if share == 1 else "adapter weakened",
            True,
            weakened_adapter(share),
        )
        for share in STRENGTHS
    ]


def weakened_adapter(share: float) -> Enter:
    """The weights a share of the way back to those without the adapter."""
    return lambda bench: edited(bench.model, towards(bench.without_adapter, share))
