"""The values of several cells as rates, means and changes with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cna_lens import Estimate, Rate, bootstrap_mean, mcnemar, paired_bootstrap, wilson
from experiments.study.cells import UNSTEERED, Steering, asked
from experiments.study.experiment import Results
from experiments.study.settings import Subject


@dataclass(frozen=True)
class Outcome:
    """The answers under one condition, request by request.

    Attributes:
        refused: whether each answer is a refusal.
        quality: of each answer, None where it is undefined.
        log_odds: of a refusal, in nats.
        seed: of the bootstrap.
    """

    refused: list[bool]
    quality: list[float | None]
    log_odds: list[float]
    seed: int

    @property
    def refusal_rate(self) -> Rate:
        """The share refused."""
        return wilson(self.refused)

    @property
    def mean_quality(self) -> Estimate | None:
        """Mean 4-gram quality; None where no answer has one."""
        known = any(value is not None for value in self.quality)
        return bootstrap_mean(self.quality, seed=self.seed) if known else None

    def refusals_since(self, before: Outcome) -> Estimate:
        """The change of the share refused, request by request."""
        return change(before.refused, self.refused, self.seed)

    def log_odds_since(self, before: Outcome) -> Estimate:
        """The change of the log-odds of a refusal, in nats."""
        return paired_bootstrap(before.log_odds, self.log_odds, seed=self.seed)

    def p_value(self, before: Outcome) -> float:
        """Exact McNemar test that refusals change in both directions equally often."""
        return mcnemar(before.refused, self.refused)


def outcome(
    results: Results,
    subject: Subject,
    steering: Steering = UNSTEERED,
    strength: float = 1.0,
    seed: int = 0,
) -> Outcome:
    """The answers of a model under one condition."""
    study = results.study
    cells = asked(study, results.sources, "answers", subject, steering, strength, seed=seed)
    return Outcome(
        results.joined(cells, "refused"),
        results.joined(cells, "quality"),
        results.joined(cells, "log_odds"),
        study.seed,
    )


def change(before: Sequence[bool], after: Sequence[bool], seed: int) -> Estimate:
    """The change of a share, example by example, with its bootstrap interval."""
    return paired_bootstrap([float(b) for b in before], [float(a) for a in after], seed=seed)
