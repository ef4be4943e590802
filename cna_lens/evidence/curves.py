"""What figures draw of evidence: little enough to stand in its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cna_lens.results.statistics import Estimate


@dataclass(frozen=True)
class NullCurves:
    """The true labels against shuffled ones, as `viz.null` draws them.

    Attributes:
        k: the circuit's number of neurons.
        as_strong: for each shuffling, how many neurons have a contrast at least as strong as the
            weakest of the circuit.
        chance_share: their mean as a share of the circuit.
        p_values: pooled p-values, rising; not each neuron's, but enough of them to draw.
        n_at_or_below: how many neurons have at most each of these.
        n_tested: neurons that may be chosen.
        found: what was found, in one line.
    """

    k: int
    as_strong: tuple[int, ...]
    chance_share: Estimate
    p_values: tuple[float, ...]
    n_at_or_below: tuple[int, ...]
    n_tested: int
    found: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> NullCurves:
        """What `dataclasses.asdict` made plain."""
        return cls(
            k=int(record["k"]),
            as_strong=tuple(map(int, record["as_strong"])),
            chance_share=_estimate(record["chance_share"]),
            p_values=tuple(map(float, record["p_values"])),
            n_at_or_below=tuple(map(int, record["n_at_or_below"])),
            n_tested=int(record["n_tested"]),
            found=str(record["found"]),
        )


@dataclass(frozen=True)
class SizeStability:
    """How much circuits from discovery sets of one size agree, as Jaccard indices.

    Attributes:
        size: prompts of each side.
        with_all: with the circuit of all prompts.
        between: of two sets drawn apart with replacement, which may share prompts.
        disjoint: of two sets that share no prompt; None where there are fewer than twice `size`.
    """

    size: int
    with_all: Estimate
    between: Estimate
    disjoint: Estimate | None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SizeStability:
        """What `dataclasses.asdict` made plain."""
        disjoint = record["disjoint"]
        return cls(
            size=int(record["size"]),
            with_all=_estimate(record["with_all"]),
            between=_estimate(record["between"]),
            disjoint=None if disjoint is None else _estimate(disjoint),
        )


@dataclass(frozen=True)
class StabilityCurves:
    """How a circuit changes with its prompts, as `viz.stability` draws it.

    Attributes:
        frequency: of each neuron of the circuit, the share of the resamples that have it, most
            often first.
        jaccard: of the resamples' circuits with the circuit.
        sizes: the same for discovery sets of several sizes.
        n_prompts: of the larger side.
        n_resamples: bootstrap resamples.
        confidence: of the intervals.
    """

    frequency: tuple[float, ...]
    jaccard: Estimate
    sizes: tuple[SizeStability, ...]
    n_prompts: int
    n_resamples: int
    confidence: float

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> StabilityCurves:
        """What `dataclasses.asdict` made plain."""
        return cls(
            frequency=tuple(map(float, record["frequency"])),
            jaccard=_estimate(record["jaccard"]),
            sizes=tuple(map(SizeStability.from_record, record["sizes"])),
            n_prompts=int(record["n_prompts"]),
            n_resamples=int(record["n_resamples"]),
            confidence=float(record["confidence"]),
        )


@dataclass(frozen=True)
class LayerCounts:
    """Neurons of a circuit in each layer, as `viz.layers` draws them.

    Attributes:
        as_they_are: by activations as they are.
        scaled: by activations divided by their layer's scale.
        scale: "rms" or "std".
    """

    as_they_are: tuple[int, ...]
    scaled: tuple[int, ...]
    scale: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LayerCounts:
        """What `dataclasses.asdict` made plain."""
        return cls(
            as_they_are=tuple(map(int, record["as_they_are"])),
            scaled=tuple(map(int, record["scaled"])),
            scale=str(record["scale"]),
        )


def thinned(n: int, at_most: int = 300) -> list[int]:
    """Places that draw a curve of n points on logarithmic axes, the first and the last among them.

    >>> thinned(5), len(thinned(50_000)) <= 300, thinned(50_000)[-1]
    ([0, 1, 2, 3, 4], True, 49999)
    """
    if n <= at_most:
        return list(range(n))
    steps = [round(n ** (step / (at_most - 1))) - 1 for step in range(at_most)]
    return sorted(set(steps))


def _estimate(record: Mapping[str, Any]) -> Estimate:
    low, high = (None if record[end] is None else float(record[end]) for end in ("low", "high"))
    return Estimate(float(record["value"]), low, high, int(record["n"]), int(record["missing"]))
