"""Would other prompts have given the same circuit? Bootstrap, and smaller discovery sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from cna_lens.discovery.activations.per_prompt import PromptActivations
from cna_lens.errors import InputError
from cna_lens.evidence.curves import SizeStability, StabilityCurves
from cna_lens.evidence.resampling import (
    PromptSets,
    bootstrap,
    check_count,
    disjoint_sets,
    jaccard_of_rows,
    over_resamples,
)
from cna_lens.evidence.selection import Selection
from cna_lens.results.circuit import Circuit
from cna_lens.results.records import (
    Evidence,
    neurons_record,
    prompt_facts,
)
from cna_lens.results.rendering import (
    Cell,
    Table,
    neuron_table,
)
from cna_lens.results.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

DISCOVERY_SIZES = (8, 16, 32, 64, 100)
"""Prompts of each side in the discovery sets that are tried, as far as there are so many."""


@dataclass(frozen=True, repr=False)
class Stability(Evidence):
    """How a circuit changes with the prompts it is found from.

    Estimates are means over resamples with the percentiles between which the resamples lie.

    Attributes:
        circuit: of all prompts.
        frequency: the share of the bootstrap resamples whose circuit holds each neuron.
        jaccard: of the bootstrap circuits with `circuit`.
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
        """The neurons of the circuit that at least this share of the resamples has, by default all.

        Raises:
            InputError: a frequency outside (0, 1].
        """
        if not 0 < frequency <= 1:
            raise InputError(f"frequency is {frequency}, expected above 0 and up to 1")
        often = self.frequency[self.circuit.layout.flat_all(self.circuit)] >= frequency
        kept = often.nonzero().squeeze(1).tolist()
        return Circuit(
            tuple(self.circuit.neurons[place] for place in kept),
            tuple(self.circuit.scores[place] for place in kept),
            self.circuit.layout,
            self.circuit.provenance,
        )

    def curves(self) -> StabilityCurves:
        """What `viz.stability` draws."""
        often = self.frequency[self.circuit.layout.flat_all(self.circuit)]
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
        import pandas as pd

        layout = self.circuit.layout
        order = self.frequency.sort(descending=True, stable=True)
        chosen: list[int] = order.indices[order.values > 0].tolist()
        neurons = [layout.neuron(flat) for flat in chosen]
        members = set(self.circuit)
        frame = pd.DataFrame(
            {
                "layer": [neuron.layer for neuron in neurons],
                "index": [neuron.index for neuron in neurons],
                "frequency": self.frequency[chosen].numpy(),
                "in_circuit": [neuron in members for neuron in neurons],
            }
        )
        if layout.experts:
            frame.insert(1, "expert", pd.array([n.mlp.expert for n in neurons], dtype="Int64"))
        return frame

    def _headline(self) -> str:
        return f"circuit of {len(self.circuit)} neurons, Jaccard {self.jaccard}"

    def _facts(self) -> list[tuple[str, str]]:
        return [
            *prompt_facts(self.n_positive, self.n_negative, self.paired),
            ("resamples", str(self.n_resamples)),
            ("in all of them", f"{len(self.core())} of {len(self.circuit)} neurons"),
            *(
                (f"sets of {size.size}", f"Jaccard {size.with_all} with the circuit")
                for size in self.sizes
            ),
        ]

    def _table(self) -> Table:
        often = self.frequency[self.circuit.layout.flat_all(self.circuit)].tolist()
        return neuron_table(
            "Neurons of the circuit",
            self.circuit.neurons,
            {
                "score": [Cell.of(score, "+.3f") for score in self.circuit.scores],
                "share of resamples": [Cell.of(share, ".3f") for share in often],
            },
        )

    def record(self) -> dict[str, Any]:
        """The core, what is drawn, and the settings; `to_frame` has the frequencies."""
        return {
            "k": len(self.circuit),
            "jaccard": asdict(self.jaccard),
            "sizes": [asdict(size) for size in self.sizes],
            "curves": asdict(self.curves()),
            "core": neurons_record(self.core()),
            "ever_chosen": int((self.frequency > 0).sum()),
            "selection": self.selection.record(),
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "n_resamples": self.n_resamples,
            "confidence": self.confidence,
            "paired": self.paired,
            "seed": self.seed,
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
    r"""Find the circuit again from resampled prompts, and see what stays.

    The bootstrap (Efron, 1979) draws as many prompts as there are, with replacement, and takes
    the circuit of each draw as `rank` and `NeuronScores.top` do. Two circuits are compared by the
    Jaccard index $|A \cap B| / |A \cup B|$; of two circuits of k neurons that share s it is
    $s / (2k - s)$, so half of the neurons shared is a third.

    For each size of a discovery set two draws with replacement are compared, and, where there are
    enough prompts, two sets without a common prompt: what someone with prompts of his own would
    find. Drawn with replacement from the same prompts, sets agree more than that.

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
        sizes: prompts of each side in the discovery sets, by default those of 8, 16, 32, 64 and
            100 that both sets have.
        confidence: share of the resamples within the intervals.
        seed: of the resamples.
        progress: show progress bars.

    Raises:
        InputError: sets that cannot be contrasted, or settings out of range.
    """
    check_count("n_resamples", n_resamples)
    chosen = selection or Selection()
    contrast = PromptSets(positive, negative, paired)
    tried = _checked_sizes(sizes, min(contrast.n_positive, contrast.n_negative))
    circuit = chosen.circuit(contrast.scores())
    generator = torch.Generator().manual_seed(seed)
    of_all = contrast.layout.flat_all(circuit).sort().values[None]
    drawn = contrast.circuits(
        bootstrap(contrast, n_resamples, generator), chosen, progress=progress
    )
    held = torch.bincount(drawn.flatten(), minlength=contrast.layout.n_neurons)

    def of_size(size: int) -> SizeStability:
        first, second = (
            contrast.circuits(
                bootstrap(contrast, n_resamples, generator, size), chosen, progress=progress
            )
            for _ in range(2)
        )
        apart = None
        if 2 * size <= min(contrast.n_positive, contrast.n_negative):
            one, other = (
                contrast.circuits(side, chosen, progress=progress)
                for side in disjoint_sets(contrast, n_resamples, generator, size)
            )
            apart = over_resamples(jaccard_of_rows(one, other), confidence)
        return SizeStability(
            size,
            over_resamples(_jaccard_with(of_all, first), confidence),
            over_resamples(jaccard_of_rows(first, second), confidence),
            apart,
        )

    return Stability(
        circuit=circuit,
        frequency=held.double() / n_resamples,
        jaccard=over_resamples(_jaccard_with(of_all, drawn), confidence),
        sizes=tuple(of_size(size) for size in tried),
        selection=chosen,
        n_positive=contrast.n_positive,
        n_negative=contrast.n_negative,
        n_resamples=n_resamples,
        confidence=confidence,
        paired=paired,
        seed=seed,
    )


def _jaccard_with(
    circuit: Int64[Tensor, "1 k"], drawn: Int64[Tensor, "resample k"]
) -> Float64[Tensor, " resample"]:
    return jaccard_of_rows(circuit.expand(len(drawn), -1), drawn)


def _checked_sizes(sizes: Sequence[int] | None, available: int) -> tuple[int, ...]:
    if sizes is None:
        return tuple(size for size in DISCOVERY_SIZES if size <= available)
    for size in sizes:
        if not 1 <= size <= available:
            raise InputError(
                f"a discovery set of {size} prompts of each side was asked for, expected 1 to "
                f"{available}, as many as both sets have"
            )
    return tuple(sizes)
