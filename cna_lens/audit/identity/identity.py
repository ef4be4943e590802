"""Is an endpoint's model the one whose canaries were chosen? The result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from cna_lens.audit.identity.betting import capitals, least_changed
from cna_lens.audit.identity.sensitive import By, SensitiveCanaries
from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.client import BUDGET_SPENT
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.statistics import check_probability, wilson

IdentityVerdict = Literal["match", "benign drift", "changed", "undecided"]

IDENTITY_EXIT_CODES: Final[Mapping[IdentityVerdict, int]] = MappingProxyType(
    {"match": 0, "benign drift": 0, "changed": 1, "undecided": 2}
)

FALSE_ALARM_RATE: Final = 0.01


@dataclass(frozen=True)
class IdentityAttestation(Evidence):
    """The comparison of an endpoint's answers to sensitive canaries with the genuine model's.

    Attributes:
        model: the name of the model at the endpoint.
        canaries_of: the name of the model on which the canaries were chosen.
        verdict: "changed" if more answers are other ones than drift explains; "match" if none is;
            "benign drift" if some are; "undecided" if there are too few replies for any outcome to
            raise an alarm.
        why: the verdict in words.
        by: what was compared, "text" or "log-probabilities".
        n_canaries: number of canaries.
        compared: number of canaries with a reply.
        changed: number of these that were answered otherwise.
        expected: the share of changed answers that the null hypothesis allows.
        evidence: the largest betting capital, as a multiple of its start.
        alarm_after: after so many replies the alarm was raised; None if it was not.
        false_alarm_rate: the largest probability of an alarm under the null hypothesis.
        missing: number of canaries without a reply that counts, for each reason.
    """

    model: str
    canaries_of: str
    verdict: IdentityVerdict
    why: str
    by: By
    n_canaries: int
    compared: int
    changed: int
    expected: float
    evidence: float
    alarm_after: int | None
    false_alarm_rate: float
    missing: dict[str, int]

    @property
    def score(self) -> float:
        """The share of changed answers."""
        return self.changed / max(1, self.compared)

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return IDENTITY_EXIT_CODES[self.verdict]

    @property
    def limits(self) -> tuple[str, ...]:
        """What this result cannot tell, in sentences."""
        left_out = self.missing.get(BUDGET_SPENT, 0)
        return (
            f"The verdict rests on {self.compared} of {self.n_canaries} canaries"
            + (f"; the budget left out {left_out}." if left_out else "."),
            f"Up to {self.expected:.1%} changed answers count as drift, of the kinds that were "
            "measured when the canaries were chosen. Another system message or chat template "
            "changes answers too.",
            "A provider that recognises the canaries, or sends many of the requests to the genuine "
            "model, is not found. The canaries were taken of a model that counts as genuine.",
        )

    def record(self) -> dict[str, Any]:
        """The result as plain data, without texts."""
        return asdict(self)

    def _headline(self) -> str:
        return f"{self.verdict}, {self.changed} of {self.compared} answers changed"

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The named values that it shows of itself."""
        return tuple(self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        alarm = "" if self.alarm_after is None else f", after {self.alarm_after} replies"
        return [
            ("why", self.why),
            ("limits", " ".join(self.limits)),
            ("model", self.model),
            ("canaries", f"of {self.canaries_of}, compared by {self.by}"),
            (
                "evidence",
                f"{self.evidence:.3g}; the alarm is raised at {1 / self.false_alarm_rate:g}{alarm}",
            ),
            *((f"left out, {reason}", str(n)) for reason, n in self.missing.items()),
        ]

    def _table(self) -> Table:
        shown = wilson([place < self.changed for place in range(self.compared)] or [False])
        rows = (
            ("compared", str(self.compared)),
            ("answered otherwise", str(self.changed)),
            ("share", str(shown) if self.compared else "-"),
            ("share that drift explains", f"{self.expected:.1%}"),
        )
        return Table(
            "Canaries",
            ("canaries", "number"),
            tuple((Cell.of(name), Cell.of(number)) for name, number in rows),
        )


def judge_identity(
    changed: Sequence[bool | Missing],
    canaries: SensitiveCanaries,
    *,
    model: str,
    by: By = "text",
    false_alarm_rate: float = FALSE_ALARM_RATE,
) -> IdentityAttestation:
    """Judge answers as `attest_identity` does, for answers that were obtained in another way.

        changed = [canaries.is_changed(place, answer) for place, answer in enumerate(answers)]
        print(judge_identity(changed, canaries, model="served"))

    Args:
        changed: whether each answer is another one (`SensitiveCanaries.is_changed`), in the order
            in which they were asked, which must not depend on the answers; `Missing` where there
            was none. At most one for each canary.
        canaries: the canaries that were asked.
        model: the name of the model that answered.
        by: what was compared.
        false_alarm_rate: the largest probability of an alarm if the model is the same.

    Raises:
        InputError: there are more answers than canaries, or the rate is outside (0, 1).
    """
    check_probability("false_alarm_rate", false_alarm_rate)
    n = len(canaries.prompts)
    if len(changed) > n:
        raise InputError(
            f"there are {len(changed)} answers to {n} canaries; give at most one for each"
        )
    replies = [each for each in changed if not isinstance(each, Missing)]
    reasons = Counter(each.reason for each in changed if isinstance(each, Missing))
    rate = canaries.expected(by).high
    course = capitals(replies, rate, n)
    alarms = [at for at, capital in enumerate(course, 1) if capital >= 1 / false_alarm_rate]
    needed = least_changed(rate, n, false_alarm_rate)
    if alarms:
        verdict, why = "changed", "more answers are other ones than drift explains"
    elif needed is None or len(replies) < needed:
        wanted = "no number is enough" if needed is None else f"{needed} are needed"
        verdict = "undecided"
        why = f"{len(replies)} canaries have a reply, and {wanted} to tell a change from drift"
    elif any(replies):
        verdict, why = "benign drift", "some answers changed, and drift might explain it"
    else:
        verdict, why = "match", "no answer changed"
    return IdentityAttestation(
        model=model,
        canaries_of=canaries.model,
        verdict=verdict,
        why=why,
        by=by,
        n_canaries=n,
        compared=len(replies),
        changed=sum(replies),
        expected=rate,
        evidence=max(course, default=1.0),
        alarm_after=alarms[0] if alarms else None,
        false_alarm_rate=false_alarm_rate,
        missing=dict(reasons.most_common()),
    )
