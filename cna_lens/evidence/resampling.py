"""Contrasts of resampled prompts: one matrix product for each resample, no forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from tqdm.auto import tqdm

from cna_lens.discovery.activations.per_prompt import PromptActivations
from cna_lens.discovery.rankings.protocol import check_whole
from cna_lens.discovery.rankings.scoring import rank
from cna_lens.errors import InputError
from cna_lens.evidence.selection import Selection
from cna_lens.results.layout import Layout
from cna_lens.results.records import Evidence, prompt_facts
from cna_lens.results.scores import NeuronScores
from cna_lens.results.statistics import Estimate

ENTRIES = 1 << 23
"""Contrasts that are held at once."""


@dataclass(frozen=True)
class Resamples:
    """How often each resample has each prompt on each side.

    Prompts are numbered through both sets, the positive set first: a bootstrap draws each side
    from its own set, shuffled labels put any prompt on either side.

    Attributes:
        positive: counts on the positive side.
        negative: counts on the negative side.
    """

    positive: Float64[Tensor, "resample prompt"]
    negative: Float64[Tensor, "resample prompt"]

    def __len__(self) -> int:
        """Number of resamples."""
        return len(self.positive)


@dataclass(frozen=True)
class ActivationSets:
    """The kept activations of two sets of prompts.

    Attributes:
        positive: on the prompts that show the behaviour.
        negative: on the prompts that do not.
        paired: whether the prompts at one place of both sets are a pair.
    """

    positive: PromptActivations
    negative: PromptActivations
    paired: bool = False

    def __post_init__(self) -> None:
        """Require two prompts of each side, and pairs where the sets are paired."""
        for name, count in (("positive", self.n_positive), ("negative", self.n_negative)):
            if count < 2:
                raise InputError(f"resampling needs at least 2 {name} prompts, there is {count}")
        if self.paired and self.n_positive != self.n_negative:
            raise InputError(
                f"paired=True needs one negative prompt for each positive one, there are "
                f"{self.n_positive} and {self.n_negative}"
            )

    @property
    def layout(self) -> Layout:
        """The model's neurons."""
        return self.positive.layout

    @property
    def n_positive(self) -> int:
        """Number of positive prompts."""
        return self.positive.source.prompts.count

    @property
    def n_negative(self) -> int:
        """Number of negative prompts."""
        return self.negative.source.prompts.count

    def scores(self) -> NeuronScores:
        """The contrast of all prompts.

        Raises:
            InputError: the sets come from different models, positions or templates.
        """
        return rank(self.positive.stats(), self.negative.stats())

    def columns(
        self, at_once: int = 1 << 12
    ) -> Iterator[tuple[slice, Float64[Tensor, "prompt n"]]]:
        """Yield the activations of both sets, one prompt a row, a block of neurons at a time."""
        for start in range(0, self.layout.n_neurons, at_once):
            stop = min(start + at_once, self.layout.n_neurons)
            sides = [side.columns(start, stop) for side in (self.positive, self.negative)]
            yield slice(start, stop), torch.cat(sides).double()

    def circuits(
        self,
        resamples: Resamples,
        selection: Selection,
        *,
        layer_scale: Float64[Tensor, " layer"] | None = None,
        progress: bool = False,
    ) -> Int64[Tensor, "resample k"]:
        """The circuit of each resample, as numbers of neurons in the model's order.

        Args:
            resamples: how often each prompt stands on each side.
            selection: how the circuits are chosen.
            layer_scale: divides the contrasts of each layer.
            progress: show a progress bar.
        """
        found: list[Tensor] = []
        divisor = None if layer_scale is None else layer_scale[self.layout.layer_of]
        with tqdm(total=len(resamples), unit="circuit", disable=not progress, leave=False) as bar:
            for deltas in self.deltas(resamples):
                scores = deltas if divisor is None else deltas / divisor
                found.append(selection.strongest(scores, self.layout))
                bar.update(len(deltas))
        return torch.cat(found)

    def deltas(self, resamples: Resamples) -> Iterator[Float64[Tensor, "resample neuron"]]:
        r"""Yield the contrast of each resample, some resamples at a time.

        With the counts U on the positive and V on the negative side and the activations A,

        $$\Delta = U A / \sum U - V A / \sum V.$$
        """
        at_once = max(1, ENTRIES // self.layout.n_neurons)
        for first in range(0, len(resamples), at_once):
            sides = [
                side[first : first + at_once] for side in (resamples.positive, resamples.negative)
            ]
            deltas = torch.empty((len(sides[0]), self.layout.n_neurons), dtype=torch.float64)
            for block, activations in self.columns():
                positive, negative = (_means(side, activations) for side in sides)
                deltas[:, block] = positive - negative
            yield deltas


class FromResamples(Evidence):
    """Evidence from the contrasts of resampled prompts, with the settings it was made by."""

    selection: Selection
    n_positive: int
    n_negative: int
    paired: bool
    seed: int

    def _facts(self) -> list[tuple[str, str]]:
        return prompt_facts(self.n_positive, self.n_negative, self.paired)

    def _settings(self) -> dict[str, Any]:
        """As plain data, those that a kind of evidence has."""
        names = ("n_positive", "n_negative", "n_resamples", "n_permutations")
        names = (*names, "confidence", "exact", "paired", "seed")
        known = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return {"selection": self.selection.record(), **known}


def bootstrap(
    sets: ActivationSets, n: int, generator: torch.Generator, size: int | None = None
) -> Resamples:
    """Draw prompts with replacement, each side from its own set; pairs stay together.

    Args:
        sets: the two sets.
        n: number of resamples.
        generator: draws them.
        size: prompts to draw from each set, by default as many as it has.
    """
    sizes = (size or sets.n_positive, size or sets.n_negative)
    drawn = torch.randint(sets.n_positive, (n, sizes[0]), generator=generator)
    other = (
        drawn if sets.paired else torch.randint(sets.n_negative, (n, sizes[1]), generator=generator)
    )
    return _sides(sets, drawn, other)


def disjoint_sets(
    sets: ActivationSets, n: int, generator: torch.Generator, size: int
) -> tuple[Resamples, Resamples]:
    """Draw n times two discovery sets without a common prompt, `size` prompts of each side."""
    positive = _orders(n, sets.n_positive, generator)
    negative = positive if sets.paired else _orders(n, sets.n_negative, generator)
    first, second = (
        _sides(sets, positive[:, part], negative[:, part])
        for part in (slice(0, size), slice(size, 2 * size))
    )
    return first, second


def shuffled_labels(sets: ActivationSets, n: int, generator: torch.Generator) -> Resamples:
    """Shuffle labels among all prompts, or swap them within pairs where the sets are paired."""
    total = sets.n_positive + sets.n_negative
    if sets.paired:
        kept = torch.randint(2, (n, sets.n_positive), generator=generator).double()
        positive = torch.cat([kept, 1 - kept], dim=1)
    else:
        positive = counts(_orders(n, total, generator)[:, : sets.n_positive], total)
    return Resamples(positive, 1 - positive)


def counts(drawn: Int64[Tensor, "resample n"], n_prompts: int) -> Float64[Tensor, "resample p"]:
    """How often each prompt was drawn.

    >>> counts(torch.tensor([[0, 2, 2]]), 3).tolist()
    [[1.0, 0.0, 2.0]]
    """
    ones = torch.ones(drawn.shape, dtype=torch.float64)
    return torch.zeros((len(drawn), n_prompts), dtype=torch.float64).scatter_add(1, drawn, ones)


def jaccard_of_rows(
    some: Int64[Tensor, "#resample k"], others: Int64[Tensor, "resample k"]
) -> Float64[Tensor, " resample"]:
    """The Jaccard index of the sets in each row of two tensors; one row is compared with all.

    >>> jaccard_of_rows(torch.tensor([[1, 2]]), torch.tensor([[2, 5], [1, 2]]))
    tensor([0.3333, 1.0000], dtype=torch.float64)
    """
    together = torch.cat([some.expand(len(others), -1), others], dim=1).sort(dim=1).values
    shared = (together[:, 1:] == together[:, :-1]).sum(1).double()
    return shared / (together.shape[1] - shared)


def over_resamples(values: Float64[Tensor, " resample"], confidence: float) -> Estimate:
    """The mean over resamples, with the percentiles that hold the given share of them."""
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}, expected between 0 and 1")
    ends = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = values.quantile(ends).tolist()
    return Estimate(float(values.mean()), low, high, len(values))


def check_counts(**counts: int) -> None:
    """Raise InputError unless each of the named counts is a whole number from 1 on."""
    for name, count in counts.items():
        check_whole(name, count, 1)


def _sides(sets: ActivationSets, positive: Tensor, negative: Tensor) -> Resamples:
    total = sets.n_positive + sets.n_negative
    return Resamples(counts(positive, total), counts(negative + sets.n_positive, total))


def _orders(n: int, size: int, generator: torch.Generator) -> Int64[Tensor, "n size"]:
    return torch.rand((n, size), generator=generator, dtype=torch.float64).argsort(dim=1)


def _means(counts: Tensor, activations: Tensor) -> Tensor:
    drawn = counts.any(0)
    return (counts[:, drawn] @ activations[drawn]) / counts.sum(1, keepdim=True)
