"""When a finding counts: one place for every number that a verdict depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cna_lens.errors import InputError

DEFAULTS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "refusals": 0.15,
        "separation": 0.1,
        "neurons": 0.1,
        "weights": 0.1,
        "readout": 0.1,
        "shift": 0.1,
        "stream additions": 0.1,
        "direction": 0.6,
    }
)


CEILING = 0.9
"""No null spread raises a threshold above this: a statistic of 1 has to count."""


@dataclass(frozen=True)
class Thresholds:
    """From which statistic on a check speaks of tampering.

    Attributes:
        statistics: for each check. Where the fingerprint's own null spread, times `margin`, is
            larger, that counts, up to `CEILING`.
        margin: how many times the null spread is still no change of the model.
        alpha: the p-value that must not be exceeded; divided by the number of checks.
    """

    statistics: Mapping[str, float] = field(default_factory=lambda: DEFAULTS)
    margin: float = 3.0
    alpha: float = 0.01

    def __post_init__(self) -> None:
        """Refuse checks that do not exist, and numbers that cannot be meant."""
        if unknown := sorted(set(self.statistics) - set(DEFAULTS)):
            raise InputError(f"there is no check {unknown[0]!r}; there are: {', '.join(DEFAULTS)}")
        if not all(value > 0 for value in (*self.statistics.values(), self.margin)):
            raise InputError("thresholds and margin must be above 0")
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha}, expected between 0 and 1")

    def of(self, check: str, null_spread: float) -> float:
        """The threshold of a check in a model whose numerics alone give such a statistic."""
        own = self.statistics.get(check, DEFAULTS[check])
        return max(own, min(self.margin * null_spread, CEILING))
