"""Does a circuit sit in late layers, or are activations just larger there?"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from cna_lens.discovery.activations.per_prompt import PromptActivations
from cna_lens.errors import InputError
from cna_lens.evidence.curves import LayerCounts
from cna_lens.evidence.resampling import (
    ActivationSets,
    FromResamples,
    bootstrap,
    check_counts,
    over_resamples,
    shuffled_labels,
)
from cna_lens.evidence.selection import Selection
from cna_lens.results.circuit import Circuit
from cna_lens.results.layout import Layout
from cna_lens.results.rendering import Cell, Table, per_layer
from cna_lens.results.scores import NeuronScores, circuit_size
from cna_lens.results.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd

Scale = Literal["rms", "std"]


@dataclass(frozen=True)
class LateShare:
    """The share of a circuit's neurons in the last layers.

    Attributes:
        region: "last 3 layers", "last quarter" or "last tenth".
        n_layers: how many layers these are.
        scaled: whether activations were first divided by their layer's scale.
        share: of the circuit of all prompts, with its bootstrap interval.
        shuffled: of circuits from shuffled labels, with the interval of the shufflings.
        of_candidates: of all neurons that may be chosen; random circuits have this share.
    """

    region: str
    n_layers: int
    scaled: bool
    share: Estimate
    shuffled: Estimate
    of_candidates: float


@dataclass(frozen=True, repr=False)
class Localization(FromResamples):
    """Where a circuit lies, from unscaled activations and in units of their layer's scale.

    Attributes:
        shares: one for each region, unscaled and scaled.
        circuit: from unscaled activations.
        scaled_circuit: from activations divided by their layer's scale.
        layer_scale: by which each layer's activations were divided.
        scale: "rms" or "std".
        selection: how circuits are chosen.
        n_positive: prompts that show the behaviour.
        n_negative: prompts that do not.
        n_resamples: bootstrap resamples.
        n_permutations: shufflings of the labels.
        confidence: of the intervals.
        paired: whether pairs were drawn together and labels swapped within them.
        seed: of resamples and shufflings.
    """

    shares: tuple[LateShare, ...]
    circuit: Circuit
    scaled_circuit: Circuit
    layer_scale: Float64[Tensor, " layer"]
    scale: Scale
    selection: Selection
    n_positive: int
    n_negative: int
    n_resamples: int
    n_permutations: int
    confidence: float
    paired: bool
    seed: int

    def curves(self) -> LayerCounts:
        """The data that `viz.layers` draws."""
        return LayerCounts(
            as_they_are=per_layer(self.circuit, self.circuit.layout),
            scaled=per_layer(self.scaled_circuit, self.scaled_circuit.layout),
            scale=self.scale,
        )

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each region, unscaled and scaled."""
        import pandas as pd

        rows = [asdict(share) for share in self.shares]
        for row in rows:
            share, shuffled = row.pop("share"), row.pop("shuffled")
            row |= {"share": share["value"], "low": share["low"], "high": share["high"]}
            row |= {f"shuffled_{name}": shuffled[name] for name in ("value", "low", "high")}
        return pd.DataFrame(rows)

    def _headline(self) -> str:
        first = self.shares[0]
        return f"{first.share.value:.0%} of {len(self.circuit)} neurons in the {first.region}"

    def _facts(self) -> list[tuple[str, str]]:
        return [
            *super()._facts(),
            ("resamples", str(self.n_resamples)),
            ("shufflings", str(self.n_permutations)),
            ("scale", f"each layer's {self.scale}"),
        ]

    def _table(self) -> Table:
        return Table(
            "Share of the circuit in late layers",
            ("region", "layers", "activations", "share", "shuffled labels", "random"),
            tuple(
                (
                    Cell.of(each.region),
                    Cell.of(each.n_layers),
                    Cell.of("scaled" if each.scaled else "as they are"),
                    Cell.of(each.share),
                    Cell.of(each.shuffled),
                    Cell.of(each.of_candidates, ".3f"),
                )
                for each in self.shares
            ),
        )

    def record(self) -> dict[str, Any]:
        """The shares, the layers' scales, the figure's data and the settings."""
        return {
            "k": len(self.circuit),
            "shares": [asdict(share) for share in self.shares],
            "layer_scale": self.layer_scale.tolist(),
            "scale": self.scale,
            "curves": asdict(self.curves()),
            **self._settings(),
        }


def localization(
    positive: PromptActivations,
    negative: PromptActivations,
    selection: Selection | None = None,
    *,
    scale: Scale = "rms",
    paired: bool = False,
    n_resamples: int = 200,
    n_permutations: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Localization:
    r"""The share of a circuit in the last layers, and how much of it the layers' scale explains.

    Activations grow with depth, and the largest differences lie where activations are largest,
    for any prompts. So the share is given as it is, after each layer's activations are divided by
    its scale $s_l$, and for shuffled labels in both ways. Over the n prompts of both sets and the
    layer's w neurons the scale is

    $$s_l = \sqrt{\frac{1}{n w} \sum_{i, j} a_{l,j}(i)^2}$$

    ("rms"), or the same after subtracting each neuron's mean over the prompts ("std"). Every
    resample uses the scale of all prompts. The regions are the last 3 layers (arXiv 2605.12290,
    tables 6 and 7), and the last quarter and tenth of the layers, rounded as `circuit_size` does.
    Intervals are percentiles of the bootstrap.

    Cost: no forward pass.

    >>> positive = collect(tiny_model, [[5, 6], [7], [8, 9]], keep="all")
    >>> negative = collect(tiny_model, [[30], [31, 32], [33]], keep="all")
    >>> found = localization(positive, negative, Selection(k=4))
    >>> [(share.region, share.n_layers, share.scaled) for share in found.shares][1:3]
    [('last quarter', 1, False), ('last tenth', 1, False)]

    Args:
        positive: from `collect(..., keep="all")`.
        negative: the same for the prompts without the behaviour.
        selection: how the circuits are chosen.
        scale: "rms" or "std".
        paired: draw the prompts at one place of both sets together, and swap their labels.
        n_resamples: bootstrap resamples.
        n_permutations: shufflings of the labels.
        confidence: of the intervals.
        seed: of resamples and shufflings.
        progress: show progress bars.

    Raises:
        InputError: sets that cannot be contrasted, or settings out of range.
    """
    check_counts(n_resamples=n_resamples, n_permutations=n_permutations)
    if scale not in get_args(Scale):
        raise InputError(f"scale is {scale!r}, expected one of {get_args(Scale)}")
    chosen = selection or Selection()
    sets = ActivationSets(positive, negative, paired)
    scores = sets.scores()
    layer_scale = _layer_scale(sets, scale)
    generator = torch.Generator().manual_seed(seed)
    drawn = bootstrap(sets, n_resamples, generator)
    shuffled = shuffled_labels(sets, n_permutations, generator)
    circuits: list[Circuit] = []
    shares: list[LateShare] = []
    for divisor in (None, layer_scale):
        circuit = chosen.circuit(_divided(scores, divisor))
        circuits.append(circuit)
        rows = [
            sets.circuits(resamples, chosen, layer_scale=divisor, progress=progress)
            for resamples in (drawn, shuffled)
        ]
        for region, n_layers in _regions(sets.layout).items():
            late = sets.layout.layer_of >= sets.layout.n_layers - n_layers
            interval, by_chance = (over_resamples(_shares(late, row), confidence) for row in rows)
            place = circuit.places
            shares.append(
                LateShare(
                    region=region,
                    n_layers=n_layers,
                    scaled=divisor is not None,
                    share=replace(interval, value=float(_shares(late, place[None]))),
                    shuffled=by_chance,
                    of_candidates=float(late[chosen.candidates(sets.layout)].double().mean()),
                )
            )
    return Localization(
        shares=tuple(shares),
        circuit=circuits[0],
        scaled_circuit=circuits[1],
        layer_scale=layer_scale,
        scale=scale,
        selection=chosen,
        n_positive=sets.n_positive,
        n_negative=sets.n_negative,
        n_resamples=n_resamples,
        n_permutations=n_permutations,
        confidence=confidence,
        paired=paired,
        seed=seed,
    )


def _regions(layout: Layout) -> dict[str, int]:
    return {
        "last 3 layers": min(3, layout.n_layers),
        "last quarter": circuit_size(layout.n_layers, fraction=1 / 4),
        "last tenth": circuit_size(layout.n_layers, fraction=1 / 10),
    }


def _shares(
    late: Bool[Tensor, " neuron"], circuits: Int64[Tensor, "resample k"]
) -> Float64[Tensor, " resample"]:
    return late[circuits].double().mean(1)


def _divided(scores: NeuronScores, layer_scale: Float64[Tensor, " layer"] | None) -> NeuronScores:
    if layer_scale is None:
        return scores
    return NeuronScores(
        values=scores.values / layer_scale[scores.layout.layer_of],
        layout=scores.layout,
        method=f"{scores.method} / layer scale",
        unit="layer scale",
        eligible=scores.eligible,
        provenance=scores.provenance,
    )


def _layer_scale(sets: ActivationSets, scale: Scale) -> Float64[Tensor, " layer"]:
    squares = torch.zeros(sets.layout.n_neurons, dtype=torch.float64)
    for block, activations in sets.columns():
        values = activations - activations.mean(0) if scale == "std" else activations
        squares[block] = (values**2).mean(0)
    means = [float(layer.mean()) if len(layer) else 0.0 for layer in sets.layout.split(squares)]
    found = torch.tensor(means, dtype=torch.float64).sqrt()
    # Where every activation is 0, every contrast is 0 too, divided by any number.
    return found.where(found > 0, 1.0)
