"""Results of rankings on planted models: one for each ranking and model, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from cna_lens.evidence.known_truth import Recovery
from cna_lens.evidence.passes import Cost
from cna_lens.models.loading.planted import Split
from cna_lens.results.statistics import Estimate, bootstrap_mean, bootstrap_share

if TYPE_CHECKING:
    import pandas as pd

LEAST_RATE: Final = 0.1
"""No share of the oracle is computed where ablating the planted neurons loses less than this."""
LEAST_NATS: Final = 0.5
"""The same for log-odds."""


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
class OtherAblations:
    """The log-odds if a set of neurons is ablated in other ways than by zeros at all positions.

    Each is the mean log-odds of the behaviour's first tokens on positive prompts, in nats. The
    means are those of the last token of the negative prompts of the discovery set.

    Attributes:
        mean: the neurons have their means at all positions.
        last_prompt_zero: they are 0 at the last prompt token alone.
        last_prompt_mean: they have their means at the last prompt token alone.
    """

    mean: float
    last_prompt_zero: float
    last_prompt_mean: float


@dataclass(frozen=True)
class Scored:
    r"""One ranking on one planted model.

    Attributes:
        model: the planted model's name.
        ranking: the ranking's name and settings.
        recovery: how well it finds the planted neurons.
        half_samples: the same from random halves of the discovery prompts, for `auroc_error`; empty
            where none were drawn.
        in_decoy: the share of the first k neurons into which a second behaviour was planted; None
            where there is no second one.
        before: the behaviour with no neuron ablated.
        oracle: the effect of ablating the planted neurons, k of them.
        chosen: the effect of ablating the k neurons that the ranking puts first.
        oracle_otherwise: the effect of ablating the planted neurons in other ways.
        chosen_otherwise: the same for the ranking's first k neurons.
        unplanted: whether the answers to the first prompts show the behaviour when only those of
            the k that were not planted are ablated; None where all were planted.
        random: the same for as many random neurons of the same layers, of which none was planted.
        fractions: the shares of all neurons at which the faithfulness was taken.
        faithfulness: $f = (m(C) - m(\emptyset)) / (m(M) - m(\emptyset))$ for the neurons C
            that the ranking puts first, where m is the log-odds with these neurons alone, with the
            whole model M, and with no neuron. All others have their means on negative prompts at
            the last prompt token (after MIB, arXiv 2504.13151).
        without: what is left of the metric on the same scale if C has its means and all other
            neurons are kept; 0 if C does everything.
        cost: of the scores.
    """

    model: str
    ranking: str
    recovery: Recovery
    half_samples: tuple[Recovery, ...]
    in_decoy: float | None
    before: Effect
    oracle: Effect
    chosen: Effect
    oracle_otherwise: OtherAblations
    chosen_otherwise: OtherAblations
    unplanted: tuple[bool, ...] | None
    random: tuple[bool, ...] | None
    fractions: tuple[float, ...]
    faithfulness: tuple[float, ...]
    without: tuple[float, ...]
    cost: Cost

    @property
    def share_of_oracle(self) -> Estimate | None:
        """Behaviour lost by the ranking's neurons over that lost by the planted ones.

        The interval is the bootstrap's over the evaluation prompts. None where the planted neurons
        lose less than `LEAST_RATE`.
        """
        # A loss of exactly this much is enough, whatever the rounding of the two rates.
        if self.before.rate - self.oracle.rate < LEAST_RATE - 1e-9:
            return None
        chosen, before, oracle = (
            list(map(float, each.shown)) for each in (self.chosen, self.before, self.oracle)
        )
        return bootstrap_share(chosen, before, oracle)

    def auroc_error(self, within_layers: bool = False) -> float | None:
        r"""Standard error over prompts of the area under the curve, about.

        It is the standard deviation over random halves of the prompts. The variance of a mean over
        half of n prompts, drawn without replacement, is that over n prompts:
        $(1 - \frac{1}{2}) \sigma^2 / \frac{n}{2} = \sigma^2 / n$. An area is no mean, so that
        this holds for it only about.

        Args:
            within_layers: of the area within layers.

        Returns:
            None with fewer than two half-samples.
        """
        part = "within_layers" if within_layers else "overall"
        values = [getattr(each, part).auroc for each in self.half_samples]
        return stdev(values) if len(values) > 1 else None

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
        for name in ("oracle_otherwise", "chosen_otherwise"):
            given[name] = OtherAblations(**given[name])
        for name in ("unplanted", "random", "fractions", "faithfulness", "without"):
            given[name] = None if given[name] is None else tuple(given[name])
        given["recovery"] = Recovery.from_record(given["recovery"])
        given["half_samples"] = tuple(map(Recovery.from_record, given["half_samples"]))
        given["cost"] = Cost(**given["cost"])
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
        """The mean of each figure over the models, by ranking; intervals are over models.

        Errors and intervals over prompts are those of one model, and have no mean.
        """
        found: dict[str, dict[str, Estimate]] = {}
        for ranking in dict.fromkeys(each.ranking for each in self.scored):
            rows = [_figures(each) for each in self.scored if each.ranking == ranking]
            found[ranking] = {
                name: bootstrap_mean([row[name] for row in rows if not math.isnan(row[name])])
                for name in rows[0]
                if not name.endswith(("_error", "_low", "_high"))
                and any(not math.isnan(row[name]) for row in rows)
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
    yield "auroc_error", _number(scored.auroc_error())
    yield "auroc_within_layers", found.within_layers.auroc
    yield "auroc_within_layers_error", _number(scored.auroc_error(within_layers=True))
    yield "average_precision", found.overall.average_precision
    yield "precision", found.overall.precision
    share = scored.share_of_oracle
    yield "share_of_oracle", _number(share and share.value)
    yield "share_of_oracle_low", _number(share and share.low)
    yield "share_of_oracle_high", _number(share and share.high)
    yield "kl", scored.chosen.kl
    yield "oracle_kl", scored.oracle.kl
    yield "quality", _number(scored.chosen.quality)
    for way in fields(OtherAblations):
        oracle, chosen = (
            scored.before.log_odds - getattr(each, way.name)
            for each in (scored.oracle_otherwise, scored.chosen_otherwise)
        )
        yield f"share_by_{way.name}", chosen / oracle if oracle >= LEAST_NATS else math.nan
    for name, shown in (("unplanted", scored.unplanted), ("random", scored.random)):
        yield f"lost_by_{name}", math.nan if shown is None else _lost(scored.before, shown)
    yield "in_decoy", _number(scored.in_decoy)
    yield "cpr", scored.cpr
    yield "cmd", scored.cmd
    yield "forward", scored.cost.forward
    yield "backward", scored.cost.backward
    yield "seconds", scored.cost.seconds


def _lost(before: Effect, shown: Sequence[bool]) -> float:
    return fmean(before.shown[: len(shown)]) - fmean(shown)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
