"""What is tried: a name, and the ranking for a behaviour's metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from cna_lens import AttributionPatching, Contrast, LogOdds, RelP, SquaredAttribution
from cna_lens.discovery import Ranking
from experiments.planted.trials.backward import RULES, Through
from experiments.planted.trials.combined import (
    Ensemble,
    InLayers,
    On,
    OverTypical,
    Sum,
)
from experiments.planted.trials.conductance import Conductance
from experiments.planted.trials.expected_gradients import ExpectedGradients
from experiments.planted.trials.grad_drop import GradDrop
from experiments.planted.trials.of_metric import OfMetric
from experiments.planted.trials.smoothed import Smoothed

REFERENCES: Final = ("contrast", "attribution_patching", "relp", "squared_attribution")
"""The rankings of the package that the others are compared with."""


def _candidates(metric: LogOdds) -> dict[str, Ranking]:
    squared, plain = SquaredAttribution(metric), AttributionPatching(metric)
    return {
        "contrast": Contrast(),
        "attribution_patching": plain,
        "relp": RelP(metric),
        "squared_attribution": squared,
        "conductance": Conductance(metric),
        "conductance, from zero": Conductance(metric, baseline="zero"),
        "conductance, squared": Conductance(metric, squared=True),
        "expected_gradients": ExpectedGradients(metric),
        "expected_gradients, squared": ExpectedGradients(metric, squared=True),
        "grad_drop": GradDrop(metric),
        "grad_drop, all tokens": GradDrop(metric, tokens="all"),
        **{rules: Through(plain, rules) for rules in RULES if rules != "relp"},
        **{
            f"{rules}, squared": Through(squared, rules)
            for rules in ("relp", "gim", "norms", "patterns")
        },
        "metric, absolute": OfMetric(metric, power=1.0),
        "metric, squared": OfMetric(metric),
        "squared over negative's": OverTypical(squared),
        "squared over diverse's": OverTypical(squared, "diverse"),
        "squared in layers": InLayers(squared),
        "squared in layers, by root mean square": InLayers(squared, 2.0),
        "squared and metric on negative": Sum((squared, On(OfMetric(metric)))),
        "smoothed": Smoothed(squared),
        "smoothed, more noise": Smoothed(squared, 0.6),
        "smoothed and metric on negative": Sum((Smoothed(squared), On(Smoothed(OfMetric(metric))))),
        "ensemble": Ensemble((squared, plain, RelP(metric), Contrast())),
        "ensemble of squared": Ensemble((squared, Through(squared, "relp"))),
    }


CANDIDATES: Final[Mapping[str, Callable[[LogOdds], Ranking]]] = MappingProxyType(
    {name: lambda metric, name=name: _candidates(metric)[name] for name in _candidates(LogOdds())}
)
"""Each candidate's ranking by its name, for the metric of a behaviour."""
