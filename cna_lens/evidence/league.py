"""Results of rankings on planted models: one for each ranking and model, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cna_lens.evidence.known_truth import Found, Recovery
from cna_lens.models.loading.planted import Split
from cna_lens.results.statistics import Estimate, bootstrap_mean

if TYPE_CHECKING:
    import pandas as pd

LEAST_RATE: Final = 0.1
LEAST_NATS: Final = 0.5
"""A smaller effect of the planted neurons is not divided by."""


@dataclass(frozen=True)
class Effect:
    """What ablating a set of neurons at all positions does, on prompts that no ranking has read.

    Attributes:
        shown: whether the answer to each positive prompt still shows the behaviour.
        log_odds: the mean log-odds of its first tokens on positive prompts, in nats.
        kl: mean KL per token from the model as it was, along its answers to negative prompts, in
            nats.
        quality: mean n-gram quality of the answers to positive prompts; None where all of them are
            too short to have one.
    """

    shown: tuple[bool, ...]
    log_odds: float
    kl: float
    quality: float | None

    @property
    def rate(self) -> float:
        """The share of positive prompts whose answers show the behaviour."""
        return fmean(self.shown)


@dataclass(frozen=True)
class Scored:
    r"""One ranking on one planted model.

    Attributes:
        model: the planted model's name.
        ranking: the ranking's name and settings.
        recovery: how well it finds the planted neurons.
        before: the behaviour with no neuron ablated.
        oracle: the effect of ablating the planted neurons, k of them.
        chosen: the effect of ablating the k neurons that the ranking puts first.
        unplanted: whether answers show the behaviour when only those of the k that were not planted
            are ablated; None where all were planted.
        random: the same for as many random neurons of the same layers, of which none was planted.
        at_last_prompt: mean log-odds with the k neurons set to their mean on negative prompts at
            the last prompt token alone.
        oracle_at_last_prompt: the same for the planted neurons.
        fractions: the shares of all neurons at which the faithfulness was taken.
        faithfulness: $f = (m(C) - m(\emptyset)) / (m(N) - m(\emptyset))$ for the neurons C
            that the ranking puts first. They keep their activations, and all other neurons have
            their means on negative prompts (after MIB, arXiv 2504.13151). The means are those of
            the last prompt token, and neurons have them at all positions.
        without: what is left of the metric on the same scale if C has its means and all other
            neurons are kept; 0 if C does everything.
        seconds: time for the scores.
    """

    model: str
    ranking: str
    recovery: Recovery
    before: Effect
    oracle: Effect
    chosen: Effect
    unplanted: tuple[bool, ...] | None
    random: tuple[bool, ...] | None
    at_last_prompt: float
    oracle_at_last_prompt: float
    fractions: tuple[float, ...]
    faithfulness: tuple[float, ...]
    without: tuple[float, ...]
    seconds: float

    @property
    def share_of_oracle(self) -> float:
        """Behaviour lost by the ranking's neurons over that lost by the planted ones.

        Not a number where the planted ones lose less than `LEAST_RATE`.
        """
        lost = self.before.rate - self.oracle.rate
        return (self.before.rate - self.chosen.rate) / lost if lost >= LEAST_RATE else math.nan

    @property
    def cpr(self) -> float:
        """Mean faithfulness over the logarithm of the share of neurons, from .03 to 10 %.

        MIB's CPR is the area over shares up to 100 %; here small sets have more weight.
        """
        return _area(self.fractions, self.faithfulness)

    @property
    def cmd(self) -> float:
        """Mean distance of the faithfulness from 1 on the same scale; 0 is best."""
        return _area(self.fractions, [abs(1 - value) for value in self.faithfulness])

    def record(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Scored:
        """Restore the result from its record."""
        given: dict[str, Any] = {each.name: record[each.name] for each in fields(cls)}
        for name in ("before", "oracle", "chosen"):
            effect: dict[str, Any] = dict(given[name])
            effect["shown"] = tuple(effect["shown"])
            given[name] = Effect(**effect)
        found = dict(given["recovery"])
        for name in ("overall", "within_layers"):
            found[name] = Found(**found[name])
        given["recovery"] = Recovery(**found)
        for name in ("unplanted", "random", "fractions", "faithfulness", "without"):
            given[name] = None if given[name] is None else tuple(given[name])
        return cls(**given)


@dataclass(frozen=True)
class League:
    """Rankings on the planted models of one split.

    Attributes:
        split: of the models.
        scored: one for each ranking and model.
    """

    split: Split
    scored: tuple[Scored, ...]

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each ranking and model."""
        import pandas as pd

        return pd.DataFrame([_row(each) for each in self.scored])

    def means(self) -> dict[str, dict[str, Estimate]]:
        """The mean of each figure over the models, by ranking; intervals are over models."""
        found: dict[str, dict[str, Estimate]] = {}
        for ranking in dict.fromkeys(each.ranking for each in self.scored):
            rows = [_figures(each) for each in self.scored if each.ranking == ranking]
            found[ranking] = {
                name: bootstrap_mean([row[name] for row in rows if not math.isnan(row[name])])
                for name in rows[0]
                if any(not math.isnan(row[name]) for row in rows)
            }
        return found


def _area(fractions: Sequence[float], values: Sequence[float]) -> float:
    """Area over the logarithm of the share of neurons, per unit of it."""
    places: NDArray[np.float64] = np.log(fractions)
    return float(np.trapezoid(values, places) / (places[-1] - places[0]))


def _row(scored: Scored) -> dict[str, str | float]:
    return {"model": scored.model, "ranking": scored.ranking, **_figures(scored)}


def _figures(scored: Scored) -> dict[str, float]:
    return dict(_named(scored))


def _named(scored: Scored) -> Iterator[tuple[str, float]]:
    found = scored.recovery
    yield "auroc", found.overall.auroc
    yield "auroc_within_layers", found.within_layers.auroc
    yield "average_precision", found.overall.average_precision
    yield "precision", found.overall.precision
    yield "share_of_oracle", scored.share_of_oracle
    yield "kl", scored.chosen.kl
    yield "oracle_kl", scored.oracle.kl
    yield "quality", math.nan if scored.chosen.quality is None else scored.chosen.quality
    lost = scored.before.log_odds - scored.oracle_at_last_prompt
    by_chosen = scored.before.log_odds - scored.at_last_prompt
    yield "share_at_last_prompt", by_chosen / lost if lost >= LEAST_NATS else math.nan
    for name, shown in (("unplanted", scored.unplanted), ("random", scored.random)):
        yield f"lost_by_{name}", math.nan if shown is None else scored.before.rate - fmean(shown)
    yield "cpr", scored.cpr
    yield "cmd", scored.cmd
    yield "seconds", scored.seconds
