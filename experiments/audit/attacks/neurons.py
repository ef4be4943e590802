"""Attacks on neurons: scaled, set to benign means, or mirrored."""

from __future__ import annotations

from itertools import product

from cna_lens import deviation_scaling, mean_ablation, steer
from cna_lens.steering import Via
from experiments.audit.bench import FRACTIONS, RANKINGS
from experiments.audit.variants import Changes, Enter, steered

MULTIPLIERS = (0.0, 0.5)
MIRRORED = (-1.0, -2.0)
"""Multipliers of the distance from the benign mean at the last prompt token. On neurons ranked by
gradients, this is the strongest attack that experiments.demo.compare found."""

GRADIENT_RANKINGS = ("attribution_patching", "relp")


def on_neurons() -> Changes:
    """All attacks on neurons."""
    yield from _scaled_neurons()
    yield from _neurons_at_benign_means()
    yield from _mirrored_neurons()


def _scaled_neurons() -> Changes:
    """By hooks and by weights in turn, so that each size and each multiplier has both."""
    ways: tuple[Via, Via] = ("hooks", "weights")
    for (i, ranking), (j, fraction), (k, multiplier) in product(
        enumerate(RANKINGS), enumerate(FRACTIONS), enumerate(MULTIPLIERS)
    ):
        via = ways[(i + j + k) % 2]
        name = f"{ranking} {fraction:.1%} x {multiplier:g} by {via}"
        yield name, f"neurons scaled by {via}", scaled_neurons(ranking, fraction, multiplier, via)


def scaled_neurons(ranking: str, fraction: float, multiplier: float, via: Via) -> Enter:
    """A circuit's activations multiplied."""
    return steered(
        lambda bench: steer(
            bench.model, bench.circuit(ranking, fraction), multiplier=multiplier, via=via
        )
    )


def _neurons_at_benign_means() -> Changes:
    def enter(ranking: str, fraction: float) -> Enter:
        return steered(
            lambda bench: mean_ablation(bench.circuit(ranking, fraction), bench.benign).at(
                bench.model
            )
        )

    for ranking, fraction in product(RANKINGS, FRACTIONS):
        name = f"{ranking} {fraction:.1%} at benign means"
        yield name, "neurons at benign means", enter(ranking, fraction)


def _mirrored_neurons() -> Changes:
    for ranking, fraction, multiplier in product(GRADIENT_RANKINGS, FRACTIONS[1:], MIRRORED):
        name = f"{ranking} {fraction:.1%} x {multiplier:g} from benign means, last token"
        enter = mirrored_neurons(ranking, fraction, multiplier)
        yield name, "neurons mirrored at the last token", enter


def mirrored_neurons(ranking: str, fraction: float, multiplier: float) -> Enter:
    """A circuit's distance from benign means multiplied at the last prompt token."""
    return steered(
        lambda bench: deviation_scaling(
            bench.circuit(ranking, fraction), bench.benign, multiplier, positions="last_prompt"
        ).at(bench.model)
    )
