"""How much of a behaviour is lost without a circuit, and how much the circuit alone keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.errors import InputError
from cna_lens.evidence.curves import estimate_of
from cna_lens.evidence.resampling import check_counts
from cna_lens.evidence.selection import Selection
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.results.circuit import Circuit
from cna_lens.results.provenance import Provenance
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.scores import NeuronScores
from cna_lens.results.statistics import Estimate, bootstrap_share, paired_bootstrap
from cna_lens.steering.scaling import hooked, set_places, steer

if TYPE_CHECKING:
    import pandas as pd

Metric = Callable[[HookedModel, Sequence[Prompt]], Sequence[float]]
"""One number for each prompt, such as `cna_lens.metrics.refusal_log_odds`."""

Values = tuple[float, ...]
Ends = tuple[Values, Values]

SHARES = ("drop", "faithfulness", "completeness")


@dataclass(frozen=True)
class Ablations:
    """The effect of ablating one circuit, and of ablating all other neurons.

    Attributes:
        ranking: the name of the ranking that gave the circuit.
        k: its number of neurons.
        drop: the metric of the whole model minus the metric without the circuit, over prompts.
        faithfulness: the share of the metric that the circuit alone keeps.
        completeness: the share that is left without the circuit; 0 if the circuit does it all.
        without: the metric of each prompt without the circuit.
        alone: the metric of each prompt with the circuit alone.
    """

    ranking: str
    k: int
    drop: Estimate
    faithfulness: Estimate
    completeness: Estimate
    without: Values
    alone: Values


@dataclass(frozen=True, repr=False)
class Necessity(Evidence):
    """The metric against k for each ranking.

    Attributes:
        points: one for each ranking and k.
        whole: the metric of each prompt on the whole model.
        nothing: the same with every neuron ablated.
        positions: the tokens at which neurons are ablated.
        model: its name, where the rankings know it.
        n_prompts: prompts on which the metric was taken.
        n_resamples: bootstrap resamples of the prompts.
        seed: of the resamples.
    """

    points: tuple[Ablations, ...]
    whole: Values
    nothing: Values
    positions: Positions
    model: str | None
    n_prompts: int
    n_resamples: int
    seed: int

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each ranking and k."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for point in self.points:
            row: dict[str, Any] = {"ranking": point.ranking, "k": point.k}
            for name in SHARES:
                estimate: Estimate = getattr(point, name)
                row |= {name: estimate.value, f"{name}_low": estimate.low}
                row[f"{name}_high"] = estimate.high
            rows.append(row)
        return pd.DataFrame(rows)

    def _headline(self) -> str:
        rankings = dict.fromkeys(point.ranking for point in self.points)
        return f"{', '.join(rankings)} on {self.n_prompts} prompts"

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("model", self.model or "unknown"),
            ("prompts", str(self.n_prompts)),
            ("ablated at", self.positions),
            ("metric", f"{np.mean(self.whole):.3g}, {np.mean(self.nothing):.3g} without neurons"),
        ]

    def _table(self) -> Table:
        return Table(
            "Without the circuit, and with it alone",
            ("ranking", "k", *SHARES),
            tuple(
                tuple(Cell.of(getattr(point, name)) for name in ("ranking", "k", *SHARES))
                for point in self.points
            ),
        )

    def record(self) -> dict[str, Any]:
        """The result as plain data, with the metric of each prompt."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Necessity:
        """Restore the result from what `record` made or `save` wrote."""
        given: dict[str, Any] = {each.name: record[each.name] for each in fields(cls)}
        given["points"] = tuple(map(_point, record["points"]))
        for name in ("whole", "nothing"):
            given[name] = tuple(record[name])
        return cls(**given)


def _point(record: Mapping[str, Any]) -> Ablations:
    drop, faithfulness, completeness = (estimate_of(record[name]) for name in SHARES)
    without, alone = (tuple(record[name]) for name in ("without", "alone"))
    ranking, k = record["ranking"], record["k"]
    return Ablations(ranking, k, drop, faithfulness, completeness, without, alone)


def necessity(
    model: HookedModel,
    prompts: Sequence[Prompt],
    rankings: Mapping[str, NeuronScores],
    metric: Metric,
    means: ActivationStats,
    *,
    sizes: Sequence[int],
    selection: Selection | None = None,
    positions: Positions = "last_prompt",
    ends: Ends | None = None,
    n_resamples: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Necessity:
    r"""Ablate circuits of several sizes, then all neurons but them, and measure a metric.

    Here a neuron is ablated by setting it to its mean over prompts without the behaviour. With
    the metric m of the whole model M, of the circuit C alone (all other neurons ablated), of M
    without C, and of the model with every neuron ablated, each averaged over prompts,

    $$\text{faithfulness} = \frac{m(C) - m(\emptyset)}{m(M) - m(\emptyset)}, \qquad
    \text{completeness} = \frac{m(M \setminus C) - m(\emptyset)}{m(M) - m(\emptyset)}$$

    (Marks et al., arXiv 2403.19647; for neurons arXiv 2601.22594). With k, faithfulness rises to 1
    and completeness falls to 0; the sooner both do, the better the ranking. Neither is bound to
    [0, 1]. Only MLP neurons are ablated, never attention. Intervals are percentiles of the
    bootstrap over prompts.

    Cost: the metric on all prompts, 2 times unless `ends` has it, and 2 times more for each ranking
    and size. Ablating a complement is one tensor operation a layer.

    >>> scores = rank(collect(tiny_model, [[5, 6]]), collect(tiny_model, [[7]]))
    >>> def logit_of_five(model, prompts):
    ...     return [float(model(torch.tensor([ids]))[0, -1, 5]) for ids in prompts]
    >>> found = necessity(
    ...     tiny_model, [[5, 6], [8, 6]], {"contrast": scores}, logit_of_five,
    ...     collect(tiny_model, [[7], [9]]), sizes=[0, 48], progress=False,
    ... )
    >>> [round(point.faithfulness.value, 3) + 0.0 for point in found.points]
    [0.0, 1.0]

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: held-out prompts for the metric, not those that gave the circuits.
        rankings: scores by name, from which the circuits are taken.
        metric: called with the model and the prompts; returns one number for each prompt.
        means: of the prompts without the behaviour, from `collect`.
        sizes: numbers of neurons; 0 is the empty circuit.
        selection: the sign, layers and universal neurons; its k and fraction are not used. The
            complement always holds all neurons outside the circuit.
        positions: the tokens at which neurons are ablated. The means are those of one token, so
            the default is the last token of the prompt.
        ends: the metric without and with every neuron ablated, if `ends_of` has been called.
        n_resamples: bootstrap resamples of the prompts.
        seed: of the resamples.
        progress: show a progress bar.

    Raises:
        InputError: no ranking or size, a metric without one finite number for each prompt, or a
            metric that ablating every neuron does not change.
    """
    if not isinstance(cast("object", sizes), Sequence):
        raise InputError(f"sizes is {sizes!r}, expected a list of numbers of neurons")
    if not rankings or not sizes:
        raise InputError("give at least one ranking and one size")
    check_counts(n_resamples=n_resamples)
    check_positions(positions)
    if ends is not None and {len(side) for side in ends} != {len(prompts)}:
        raise InputError(
            f"ends has values of {len(ends[0])} prompts, and there are {len(prompts)}; give those "
            "of the same prompts"
        )
    layout = means.layout
    for name, scores in rankings.items():
        if scores.layout != layout:
            raise InputError(
                f"the ranking {name!r} is of a model with {scores.layout.n_neurons} neurons, the "
                f"means of one with {layout.n_neurons}; use one model"
            )
    circuits = {
        (name, k): _circuit(scores, k, selection or Selection())
        for name, scores in rankings.items()
        for k in sizes
    }
    ablation = _Ablation(model, prompts, metric, means, positions)
    with tqdm(total=2 + 2 * len(circuits), unit="run", disable=not progress, leave=False) as bar:

        def counted(values: Values) -> Values:
            bar.update()
            return values

        whole, nothing = ends or ablation.ends(_model_of(rankings))
        bar.update(2)
        without = {key: counted(ablation.of(circuit)) for key, circuit in circuits.items()}
        alone = {key: counted(ablation.of_others(circuit)) for key, circuit in circuits.items()}
    if math.isclose(math.fsum(whole), math.fsum(nothing), rel_tol=1e-9):
        raise InputError(
            "ablating every neuron leaves the metric as it is, so that no share of it can be "
            "traced to neurons; use another metric, other prompts or positions"
        )

    def share(values: Values) -> Estimate:
        return bootstrap_share(values, nothing, whole, n_resamples=n_resamples, seed=seed)

    return Necessity(
        points=tuple(
            Ablations(
                ranking=name,
                k=k,
                drop=paired_bootstrap(without[name, k], whole, n_resamples=n_resamples, seed=seed),
                faithfulness=share(alone[name, k]),
                completeness=share(without[name, k]),
                without=without[name, k],
                alone=alone[name, k],
            )
            for name, k in circuits
        ),
        whole=whole,
        nothing=nothing,
        positions=positions,
        model=_model_of(rankings),
        n_prompts=len(prompts),
        n_resamples=n_resamples,
        seed=seed,
    )


def ends_of(
    model: HookedModel,
    prompts: Sequence[Prompt],
    metric: Metric,
    means: ActivationStats,
    *,
    positions: Positions = "last_prompt",
) -> Ends:
    """The metric of each prompt on the whole model, and with every neuron ablated.

    `necessity` takes them as `ends`, so that several calls with the same arguments compute them
    once.

    >>> def logit_of_five(model, prompts):
    ...     return [float(model(torch.tensor([ids]))[0, -1, 5]) for ids in prompts]
    >>> whole, nothing = ends_of(
    ...     tiny_model, [[5, 6], [8, 6]], logit_of_five, collect(tiny_model, [[7], [9]])
    ... )
    >>> len(whole), len(nothing)
    (2, 2)

    Args:
        model: as for `necessity`, like all that follow.
        prompts: as for `necessity`.
        metric: as for `necessity`.
        means: as for `necessity`.
        positions: as for `necessity`.

    Raises:
        InputError: the metric does not give one finite number for each prompt.
    """
    return _Ablation(model, prompts, metric, means, positions).ends(None)


@dataclass(frozen=True)
class _Ablation:
    """Measures the metric with neurons set to their means."""

    model: HookedModel
    prompts: Sequence[Prompt]
    metric: Metric
    means: ActivationStats
    positions: Positions

    def ends(self, name: str | None) -> Ends:
        layout = self.means.layout
        neurons = tuple(layout.neurons())
        every = Circuit(neurons, (0.0,) * len(neurons), layout, Provenance(model=name))
        return self._measured(nullcontext()), self.of(every)

    def of(self, circuit: Circuit) -> Values:
        if not len(circuit):
            return self._measured(nullcontext())
        return self._measured(
            steer(self.model, circuit, values=self.means, positions=self.positions)
        )

    def of_others(self, circuit: Circuit) -> Values:
        """Measure with all neurons but the circuit's ablated."""
        is_other = torch.ones(circuit.layout.n_neurons, dtype=torch.bool)
        is_other[circuit.places] = False
        hooks = set_places(
            circuit.layout, is_other.nonzero().flatten(), self.means.mean_where_routed
        )
        return self._measured(hooked(self.model, hooks, self.positions))

    def _measured(self, steering: AbstractContextManager[Any]) -> Values:
        with steering, torch.no_grad():
            values = tuple(float(value) for value in self.metric(self.model, self.prompts))
        if len(values) != len(self.prompts) or not all(map(math.isfinite, values)):
            raise InputError(
                f"the metric gave {values} for {len(self.prompts)} prompts, expected one finite "
                "number for each"
            )
        return values


def _model_of(rankings: Mapping[str, NeuronScores]) -> str | None:
    return next(iter(rankings.values())).provenance.model


def _circuit(scores: NeuronScores, k: int, selection: Selection) -> Circuit:
    if k == 0:
        return Circuit((), (), scores.layout, scores.provenance)
    return replace(selection, fraction=None, k=k).circuit(scores)
