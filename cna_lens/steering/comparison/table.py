"""The outcome of each method at each strength, prompt by prompt, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cna_lens.errors import InputError
from cna_lens.results.journal import read_journal
from cna_lens.results.rendering import Cell, Summarized, Summary, Table
from cna_lens.results.statistics import (
    Estimate,
    Rate,
    bootstrap_mean,
    mcnemar,
    mcnemar_of_known,
    paired_bootstrap,
    wilson,
    wilson_of_known,
)
from cna_lens.steering.methods.choice import Prefer, check_prefer

if TYPE_CHECKING:
    import pandas as pd

UNSTEERED = "unsteered"

COLUMNS = (
    *("method", "strength", "behaviour", "complies", "no answer", "p of behaviour"),
    *("elsewhere", "quality", "compression", "KL per token"),
)

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one method at one strength: labels, scores and hashes, never a text.

    Attributes:
        method: the steering method's name, "unsteered" for the baseline.
        strength: from 0 to 1.
        positive: whether the answer to each positive prompt shows the behaviour.
        negative: the same for the negative prompts.
        quality: 4-gram quality of the answers to the positive prompts, None where undefined.
        kl_per_token: for each negative prompt, the KL divergence from the unsteered model, in nats.
        metrics: your metrics on the positive prompts, by name.
        answers_sha256: the hash of each answer, those to the positive prompts first.
        seconds: how long it took.
        complied: whether the answer to each positive prompt complies, by the rule `complies`, None
            where it is not known; None in files that are older than this label.
        no_answer: whether each of these answers is empty or degenerate (`no_answer`) and does not
            refuse; None in older files.
        compression_ratio: how far zlib compresses each of these answers, which detects loops; None
            in older files.
    """

    method: str
    strength: float
    positive: tuple[bool, ...]
    negative: tuple[bool, ...]
    quality: Values
    kl_per_token: Values
    metrics: Mapping[str, Values]
    answers_sha256: tuple[str, ...]
    seconds: float
    complied: tuple[bool | None, ...] | None = None
    no_answer: tuple[bool | None, ...] | None = None
    compression_ratio: Values | None = None

    def record(self) -> dict[str, Any]:
        """Return the outcome as plain data."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Outcome:
        """Read an outcome from what `record` returned."""

        def frozen(values: Mapping[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}

        return cls(**frozen({**record, "metrics": frozen(record["metrics"])}))


@dataclass(frozen=True)
class Row:
    """One row of the table: a method at a strength, against the unsteered model.

    Attributes:
        method: the steering method's name.
        strength: from 0 to 1.
        behaviour: share of positive prompts whose answer shows the behaviour.
        elsewhere: share of negative prompts whose answer shows it.
        p_value: exact McNemar test of `behaviour` against the unsteered model.
        quality: mean 4-gram quality, None where no answer has one.
        quality_change: paired mean change of the quality against the unsteered model.
        kl_per_token: mean over the unsteered model's answers to negative prompts, in nats.
        metrics: the mean of each metric.
        metric_changes: the paired mean change of each metric against the unsteered model.
        seconds: how long it took.
        compliance: share of positive prompts whose answer complies by the rule `complies`, among
            those whose label is known; None in files that are older than this label.
        no_answer: share of positive prompts whose answer is empty or degenerate; None in older
            files. Such an answer stays in the denominator of every share.
        compliance_p_value: exact McNemar test of `compliance` against the unsteered model.
        compression_ratio: mean compression ratio, None where no answer has one.
    """

    method: str
    strength: float
    behaviour: Rate
    elsewhere: Rate
    p_value: float
    quality: Estimate | None
    quality_change: Estimate | None
    kl_per_token: Estimate | None
    metrics: Mapping[str, Estimate | None]
    metric_changes: Mapping[str, Estimate | None]
    seconds: float
    compliance: Rate | None
    no_answer: Rate | None
    compliance_p_value: float | None
    compression_ratio: Estimate | None


@dataclass(frozen=True, repr=False)
class Comparison(Summarized):
    """All outcomes of `compare`, the unsteered one first.

    Attributes:
        outcomes: one for each method and strength.
        seed: the seed of the bootstrap intervals.
    """

    outcomes: tuple[Outcome, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        """Require the baseline as the first outcome."""
        if not self.outcomes or self.outcomes[0].method != UNSTEERED:
            raise InputError("a comparison needs the unsteered outcome as its first one")

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read the finished rows of a file that `compare` writes, even if others are missing.

        Raises:
            InputError: the file does not exist, or holds no comparison with an unsteered outcome.
        """
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist")
        _, records = read_journal(Path(path), "comparison")
        try:
            return cls(tuple(map(Outcome.from_record, records.values())))
        except (KeyError, TypeError) as error:
            raise InputError(f"{path} holds no outcomes of a comparison: {error}") from error

    @property
    def rows(self) -> tuple[Row, ...]:
        """The table, with 95 % intervals: Wilson for rates, bootstrap for means."""
        return tuple(self._row(outcome) for outcome in self.outcomes)

    def front(self, prefer: Prefer = "lowest") -> tuple[Row, ...]:
        """Return the Pareto front of less behaviour against less KL per token, cheapest first.

        It holds the rows above strength 0 that no other row beats. A row beats another if it has at
        most as much of both, and less of one. Rows without a KL divergence are left out. Only
        values are compared, not their intervals.

        Args:
            prefer: "lowest" to remove the behaviour, "highest" to induce it.

        Raises:
            InputError: `prefer` is neither.
        """
        check_prefer(prefer)
        sign = 1 if prefer == "lowest" else -1
        known = [
            (row.kl_per_token.value, sign * row.behaviour.value, row)
            for row in self.rows
            if row.strength > 0 and row.kl_per_token is not None
        ]
        front = [
            (kl, behaviour, row)
            for kl, behaviour, row in known
            if not any(
                other_kl <= kl and other <= behaviour and (other_kl, other) != (kl, behaviour)
                for other_kl, other, _ in known
            )
        ]
        return tuple(row for *_, row in sorted(front, key=lambda point: point[:2]))

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a data frame, with columns for the ends of each interval."""
        import pandas as pd

        return pd.DataFrame([_flat(row) for row in self.rows])

    def _row(self, outcome: Outcome) -> Row:
        before = self.outcomes[0]
        return Row(
            method=outcome.method,
            strength=outcome.strength,
            behaviour=wilson(outcome.positive),
            elsewhere=wilson(outcome.negative),
            p_value=mcnemar(before.positive, outcome.positive),
            quality=self._mean(outcome.quality),
            quality_change=self._change(before.quality, outcome.quality),
            kl_per_token=self._mean(outcome.kl_per_token),
            metrics={name: self._mean(values) for name, values in outcome.metrics.items()},
            metric_changes={
                name: self._change(before.metrics[name], values)
                for name, values in outcome.metrics.items()
            },
            seconds=outcome.seconds,
            compliance=wilson_of_known(outcome.complied or ()),
            no_answer=wilson_of_known(outcome.no_answer or ()),
            compliance_p_value=(
                None
                if before.complied is None or outcome.complied is None
                else mcnemar_of_known(before.complied, outcome.complied)
            ),
            compression_ratio=self._mean(outcome.compression_ratio or ()),
        )

    def _mean(self, values: Values) -> Estimate | None:
        known = any(value is not None for value in values)
        return bootstrap_mean(values, seed=self.seed) if known else None

    def _change(self, before: Values, after: Values) -> Estimate | None:
        known = any(None not in pair for pair in zip(before, after, strict=True))
        return paired_bootstrap(before, after, seed=self.seed) if known else None

    def _summary(self) -> Summary:
        n_positive, n_negative = len(self.outcomes[0].positive), len(self.outcomes[0].negative)
        return Summary(
            "Comparison of steering methods",
            [
                ("prompts", f"{n_positive} positive, {n_negative} negative"),
                ("intervals", "95 %: Wilson for shares, bootstrap for means"),
                ("complies", "the answer does what was asked, by a rule about its words"),
                ("no answer", "the answer is empty or degenerate; it counts in all shares"),
            ],
            Table(
                "Methods and strengths",
                COLUMNS,
                tuple(
                    (
                        Cell.of(row.method),
                        Cell.of(row.strength),
                        Cell.of(row.behaviour),
                        Cell.of(row.compliance),
                        Cell.of(row.no_answer),
                        Cell.of(row.p_value, ".2g"),
                        Cell.of(row.elsewhere),
                        Cell.of(row.quality),
                        Cell.of(row.compression_ratio),
                        Cell.of(row.kl_per_token),
                    )
                    for row in self.rows
                ),
                keys=2,
            ),
        )

    def __repr__(self) -> str:
        """Name the number of outcomes and the methods in one line."""
        methods = dict.fromkeys(outcome.method for outcome in self.outcomes)
        return f"Comparison({len(self.outcomes)} outcomes: {', '.join(methods)})"


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {"method": row.method, "strength": row.strength}
    rates = ("behaviour", "elsewhere", "compliance", "no_answer")
    for name in (*rates, "quality", "quality_change", "compression_ratio", "kl_per_token"):
        flat |= _columns(name, getattr(row, name))
    for name, value in row.metrics.items():
        flat |= _columns(name, value) | _columns(f"{name}_change", row.metric_changes[name])
    tests = {"p_value": row.p_value, "compliance_p_value": row.compliance_p_value}
    return flat | tests | {"seconds": row.seconds}


def _columns(name: str, value: Rate | Estimate | None) -> dict[str, Any]:
    parts = (value.value, value.low, value.high, value.n) if value else (None, None, None, 0)
    return dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_n"), parts, strict=True))
