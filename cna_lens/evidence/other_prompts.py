"""Would other prompts give the same circuit? Bootstrap, and smaller discovery sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from cna_lens.discovery.activations.per_prompt import PromptActivations
from cna_lens.errors import InputError
from cna_lens.evidence.curves import SizeStability, StabilityCurves
from cna_lens.evidence.resampling import (
    ActivationSets,
    FromResamples,
    Resamples,
    bootstrap,
    check_counts,
    disjoint_sets,
    jaccard_of_rows,
    over_resamples,
)
from cna_lens.evidence.selection import Selection
from cna_lens.results.circuit import Circuit
from cna_lens.results.records import neurons_record
from cna_lens.results.rendering import Cell, Table, neuron_table
from cna_lens.results.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

DISCOVERY_SIZES = (8, 16, 32, 64, 100)
"""Prompts of each side in the discovery sets; larger sizes than the prompts are left out."""


@dataclass(frozen=True, repr=False)
class Stability(FromResamples):
    """How a circuit changes with its discovery prompts.

    Estimates are means over resamples with percentiles of the resamples.

    Attributes:
        circuit: of all prompts.
        frequency: for each neuron, the share of the bootstrap circuits that hold it.
        jaccard: agreement of the bootstrap circuits with `circuit`.
        sizes: the same for discovery sets of several sizes.
        selection: how circuits are chosen.
        n_positive: prompts that show the behaviour.
        n_negative: prompts that do not.
        n_resamples: bootstrap resamples, and pairs of discovery sets of each size.
        confidence: of the intervals.
        paired: whether pairs of prompts were drawn together.
        seed: of the resamples.
    """

    circuit: Circuit
    frequency: Float64[Tensor, " neuron"]
    jaccard: Estimate
    sizes: tuple[SizeStability, ...]
    selection: Selection
    n_positive: int
    n_negative: int
    n_resamples: int
    confidence: float
    paired: bool
    seed: int

    def core(self, frequency: float = 1.0) -> Circuit:
        """The neurons of the circuit that at least this share of the resamples chooses.

        Raises:
            InputError: a frequency outside (0, 1].
        """
        if not 0 < frequency <= 1:
            raise InputError(f"frequency is {frequency}, expected above 0 and up to 1")
        often = self.frequency[self.circuit.places] >= frequency
        kept = often.nonzero().squeeze(1).tolist()
        return Circuit(
            tuple(self.circuit.neurons[place] for place in kept),
            tuple(self.circuit.scores[place] for place in kept),
            self.circuit.layout,
            self.circuit.provenance,
        )

    def curves(self) -> StabilityCurves:
        """The data that `viz.stability` draws."""
        often = self.frequency[self.circuit.places]
        return StabilityCurves(
            frequency=tuple(often.sort(descending=True).values.tolist()),
            jaccard=self.jaccard,
            sizes=self.sizes,
            n_prompts=max(self.n_positive, self.n_negative),
            n_resamples=self.n_resamples,
            confidence=self.confidence,
        )

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each neuron that any resample chose, most often first."""
        order = self.frequency.sort(descending=True, stable=True)
        ever = order.values > 0
        layout = self.circuit.layout
        neurons = tuple(map(layout.neuron, order.indices[ever].tolist()))
        chosen = Circuit(neurons, tuple(order.values[ever].tolist()), layout)
        frame = chosen.to_frame().rename(columns={"score": "frequency"})
        members = set(self.circuit)
        return frame.assign(in_circuit=[neuron in members for neuron in neurons])

    def _headline(self) -> str:
        return f"circuit of {len(self.circuit)} neurons, Jaccard {self.jaccard}"

    def _facts(self) -> list[tuple[str, str]]:
        return [
            *super()._facts(),
            ("resamples", str(self.n_resamples)),
            ("in all of them", f"{len(self.core())} of {len(self.circuit)} neurons"),
            *(
                (f"sets of {size.size}", f"Jaccard {size.with_all} with the circuit")
                for size in self.sizes
            ),
        ]

    def _table(self) -> Table:
        often = self.frequency[self.circuit.places].tolist()
        return neuron_table(
            "Neurons of the circuit",
            self.circuit.neurons,
            {
                "score": [Cell.of(score, "+.3f") for score in self.circuit.scores],
                "share of resamples": [Cell.of(share, ".3f") for share in often],
            },
        )

    def record(self) -> dict[str, Any]:
        """The core, the figure's data and the settings; `to_frame` has the frequencies."""
        return {
            "k": len(self.circuit),
            "jaccard": asdict(self.jaccard),
            "sizes": [asdict(size) for size in self.sizes],
            "curves": asdict(self.curves()),
            "core": neurons_record(self.core()),
            "ever_chosen": int((self.frequency > 0).sum()),
            **self._settings(),
        }


def stability(
    positive: PromptActivations,
    negative: PromptActivations,
    selection: Selection | None = None,
    *,
    paired: bool = False,
    n_resamples: int = 200,
    sizes: Sequence[int] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Stability:
    r"""Find the circuit again from resampled prompts, and measure how much of it stays.

    The bootstrap (Efron, 1979) draws as many prompts as there are, with replacement, and finds
    the circuit of each draw as `rank` and `NeuronScores.top` do. Circuits are compared by the
    Jaccard index $|A \cap B| / |A \cup B|$. Two circuits of k neurons that share s have
    $s / (2k - s)$, so circuits that share half of their neurons have 1/3.

    For each size of a discovery set, two draws with replacement are compared and, where there are
    enough prompts, two sets without a common prompt. The disjoint sets show how much someone with
    other prompts would agree; sets drawn with replacement from the same prompts agree more.

    Cost: no forward pass; a resample is one row of a matrix product.

    >>> positive = collect(tiny_model, [[5, 6], [7], [8, 9]], keep="all")
    >>> negative = collect(tiny_model, [[30], [31, 32], [33]], keep="all")
    >>> found = stability(positive, negative, Selection(k=2), sizes=[2], n_resamples=50)
    >>> len(found.circuit), 0 < found.jaccard.value <= 1, len(found.core()) <= 2
    (2, True, True)

    Args:
        positive: from `collect(..., keep="all")`.
        negative: the same for the prompts without the behaviour.
        selection: how the circuits are chosen.
        paired: draw the prompts at one place of both sets together.
        n_resamples: bootstrap resamples, and pairs of discovery sets of each size.
        sizes: prompts of each side in the discovery sets, by default 8, 16, 32, 64 and 100 where
            both sets have so many.
        confidence: share of the resamples within the intervals.
        seed: of the resamples.
        progress: show progress bars.

    Raises:
        InputError: sets that cannot be contrasted, or settings out of range.
    """
    check_counts(n_resamples=n_resamples)
    chosen = selection or Selection()
    sets = ActivationSets(positive, negative, paired)
    available = min(sets.n_positive, sets.n_negative)
    tried = _checked_sizes(sizes, available)
    circuit = chosen.circuit(sets.scores())
    of_all = circuit.places.sort().values[None]
    generator = torch.Generator().manual_seed(seed)

    def circuits(*draws: Resamples) -> list[Int64[Tensor, "resample k"]]:
        return [sets.circuits(drawn, chosen, progress=progress) for drawn in draws]

    def agreement(some: Tensor, others: Tensor) -> Estimate:
        return over_resamples(jaccard_of_rows(some, others), confidence)

    def of_size(size: int) -> SizeStability:
        first, second = (
            circuits(bootstrap(sets, n_resamples, generator, size))[0] for _ in range(2)
        )
        disjoint = None
        if 2 * size <= available:
            disjoint = agreement(*circuits(*disjoint_sets(sets, n_resamples, generator, size)))
        return SizeStability(size, agreement(of_all, first), agreement(first, second), disjoint)

    (drawn,) = circuits(bootstrap(sets, n_resamples, generator))
    held = torch.bincount(drawn.flatten(), minlength=sets.layout.n_neurons)
    return Stability(
        circuit=circuit,
        frequency=held.double() / n_resamples,
        jaccard=agreement(of_all, drawn),
        sizes=tuple(map(of_size, tried)),
        selection=chosen,
        n_positive=sets.n_positive,
        n_negative=sets.n_negative,
        n_resamples=n_resamples,
        confidence=confidence,
        paired=paired,
        seed=seed,
    )


def _checked_sizes(sizes: Sequence[int] | None, available: int) -> tuple[int, ...]:
    if sizes is None:
        return tuple(size for size in DISCOVERY_SIZES if size <= available)
    if isinstance(sizes, Integral):
        raise InputError(f"sizes is {sizes}, expected several: [{sizes}]")
    for size in sizes:
        if not isinstance(size, Integral) or not 1 <= size <= available:
            raise InputError(
                f"a discovery set of {size} prompts of each side was asked for, expected 1 to "
                f"{available}, the prompts that both sets have"
            )
    return tuple(sizes)
