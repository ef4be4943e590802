"""The data that figures of evidence draw, small enough to be kept in its file."""

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
        chance_share: the mean of `as_strong` as a share of the circuit.
        p_values: pooled p-values, rising; not one for each neuron, but enough to draw.
        n_at_or_below: for each of these, how many neurons have at most this p-value.
        n_tested: neurons that may be chosen.
        found: the result in one line.
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
        """Restore the plain data that `dataclasses.asdict` gives."""
        return cls(
            k=int(record["k"]),
            as_strong=tuple(map(int, record["as_strong"])),
            chance_share=estimate_of(record["chance_share"]),
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
        with_all: agreement with the circuit of all prompts.
        between: of two sets, each drawn with replacement, which may share prompts.
        disjoint: of two sets that share no prompt; None with fewer than 2 `size` prompts.
    """

    size: int
    with_all: Estimate
    between: Estimate
    disjoint: Estimate | None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SizeStability:
        """Restore the plain data that `dataclasses.asdict` gives."""
        disjoint = record["disjoint"]
        return cls(
            size=int(record["size"]),
            with_all=estimate_of(record["with_all"]),
            between=estimate_of(record["between"]),
            disjoint=None if disjoint is None else estimate_of(disjoint),
        )


@dataclass(frozen=True)
class StabilityCurves:
    """How a circuit changes with its prompts, as `viz.stability` draws it.

    Attributes:
        frequency: for each neuron of the circuit, the share of the resamples that choose it, in
            descending order.
        jaccard: agreement of the resamples' circuits with the circuit.
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
        """Restore the plain data that `dataclasses.asdict` gives."""
        return cls(
            frequency=tuple(map(float, record["frequency"])),
            jaccard=estimate_of(record["jaccard"]),
            sizes=tuple(map(SizeStability.from_record, record["sizes"])),
            n_prompts=int(record["n_prompts"]),
            n_resamples=int(record["n_resamples"]),
            confidence=float(record["confidence"]),
        )


@dataclass(frozen=True)
class LayerCounts:
    """Neurons of a circuit in each layer, as `viz.layers` draws them.

    Attributes:
        as_they_are: from unscaled activations.
        scaled: from activations divided by their layer's scale.
        scale: "rms" or "std".
    """

    as_they_are: tuple[int, ...]
    scaled: tuple[int, ...]
    scale: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> LayerCounts:
        """Restore the plain data that `dataclasses.asdict` gives."""
        return cls(
            as_they_are=tuple(map(int, record["as_they_are"])),
            scaled=tuple(map(int, record["scaled"])),
            scale=str(record["scale"]),
        )


def thinned(n: int, at_most: int = 300) -> list[int]:
    """The indices that suffice to draw a curve of n points on logarithmic axes.

    The first and the last index are among them.

    >>> thinned(5), len(thinned(50_000)) <= 300, thinned(50_000)[-1]
    ([0, 1, 2, 3, 4], True, 49999)
    """
    if n <= at_most:
        return list(range(n))
    steps = [round(n ** (step / (at_most - 1))) - 1 for step in range(at_most)]
    return sorted(set(steps))


def estimate_of(record: Mapping[str, Any]) -> Estimate:
    """Restore an estimate from its plain data."""
    low, high = (None if record[end] is None else float(record[end]) for end in ("low", "high"))
    return Estimate(float(record["value"]), low, high, int(record["n"]), int(record["missing"]))
