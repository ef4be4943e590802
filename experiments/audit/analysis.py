"""Analysis of the records: how well scores separate variants, and a threshold's errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cna_lens import Estimate, InputError, Rate, wilson
from experiments.audit.halves import Audit, audits, by_kind, halved
from experiments.audit.running import ACCESSES
from experiments.shared.areas import area_with_interval
from experiments.shared.detection import chosen_threshold

WITHOUT_LEARNING = ("untouched", "batch size", "precision", "int8", "kernels", "noise")
"""Benign kinds without training or ablation, whose shifts are the behaviour's own noise."""


@dataclass(frozen=True)
class Row:
    """How well one signal separates some tampered variants from the benign ones.

    Attributes:
        access: the audit's access.
        signal: "score", or the name of a single check.
        tampered: the group of tampered variants.
        auroc: area under the ROC curve over both halves.
        caught: share of the test half's tampered variants above the threshold.
    """

    access: str
    signal: str
    tampered: str
    auroc: Estimate
    caught: Rate


@dataclass(frozen=True)
class Level:
    """One access level to one model.

    Attributes:
        model: the reference.
        access: the audit's access.
        threshold: on the score, chosen on the calibration half.
        rows: how well each signal separates all variants and each kind.
        false_alarms: share of the test half's benign variants above the threshold.
        verdicts: how often each verdict was given, tampered and benign variants apart.
        missed: tampered variants of the test half that lie below the threshold.
        alarmed: benign ones above it.
        failed: variants that could not be audited, with the reason.
        noise: of the behaviour itself, in nats.
        seconds: median and longest time of an audit.
    """

    model: str
    access: str
    threshold: float
    rows: tuple[Row, ...]
    false_alarms: Rate
    verdicts: Mapping[str, Mapping[str, int]]
    missed: tuple[str, ...]
    alarmed: tuple[str, ...]
    failed: Mapping[str, str]
    noise: float
    seconds: tuple[float, float]


def analysed(
    records: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    names: Collection[str] | None = None,
) -> list[Level]:
    """Every access level with records of one model's study.

    Args:
        records: from the study's journal.
        seed: of the halves.
        names: the variants to read; None reads all.
    """
    return [
        level(found, access, seed)
        for access, found in found_at_levels(records, names).items()
        # Where every audit ended with an error there is nothing to analyse.
        if any(audit.score is not None for audit in found)
    ]


def found_at_levels(
    records: Mapping[str, Mapping[str, Any]], names: Collection[str] | None = None
) -> dict[str, list[Audit]]:
    """The audits at each access level with records; those of some variants alone, if given."""
    finished = {record.get("access") for record in records.values()}
    return {
        access: [audit for audit in audits(records, access) if names is None or audit.name in names]
        for access in ACCESSES
        if access in finished
    }


def level(found: Sequence[Audit], access: str, seed: int) -> Level:
    """Analyse one access level.

    Raises:
        InputError: one side has too few variants to be halved.
    """
    scored = [audit for audit in found if audit.score is not None]
    calibration, test = halved(by_kind(scored), seed)
    noise = behaviours_noise(scored)

    def sides(chosen: Callable[[Audit], bool]) -> tuple[list[Audit], list[Audit]]:
        benign = [audit for audit in scored if not audit.tampered]
        return [audit for audit in scored if audit.tampered and chosen(audit)], benign

    groups: dict[str, Callable[[Audit], bool]] = {
        "all": lambda _: True,
        "behaviour changed": lambda audit: audit.shift > noise,
        "behaviour unchanged": lambda audit: audit.shift <= noise,
    }
    groups |= {
        kind: lambda audit, kind=kind: audit.kind == kind
        for kind in sorted({audit.kind for audit in scored if audit.tampered})
    }
    rows = [
        row
        for signal, of in signals(scored).items()
        for name, chosen in groups.items()
        if signal == "score" or name in ("all", "behaviour changed")
        if (row := _row(access, signal, name, of, sides(chosen), calibration, test))
    ]
    tampered, benign = sides(lambda _: True)
    threshold = chosen_threshold([_score(audit) for audit in benign if audit.name in calibration])
    missed = [a.name for a in tampered if a.name in test and _score(a) <= threshold]
    judged = [a for a in benign if a.name in test]
    alarmed = [a.name for a in judged if _score(a) > threshold]
    seconds = [audit.seconds for audit in scored]
    return Level(
        found[0].model,
        access,
        threshold,
        tuple(rows),
        wilson([audit.name in alarmed for audit in judged]),
        {
            side: {
                verdict: sum(a.verdict == verdict for a in some)
                for verdict in sorted({a.verdict for a in some})
            }
            for side, some in (("tampered", tampered), ("benign", benign))
        },
        tuple(missed),
        tuple(alarmed),
        {audit.name: audit.verdict for audit in found if audit.score is None},
        noise,
        (float(np.median(seconds)), max(seconds)),
    )


def behaviours_noise(found: Sequence[Audit]) -> float:
    """The largest magnitude of a log-odds shift among purely numerical variants."""
    return max((abs(audit.shift) for audit in found if audit.kind in WITHOUT_LEARNING), default=0.0)


def signals(found: Sequence[Audit]) -> dict[str, Callable[[Audit], float]]:
    """The audit's score, and the statistic of each check that every audit has."""
    shared = set.intersection(*(set(audit.checks) for audit in found)) if found else set[str]()
    alone = {
        name: lambda audit, name=name: float(audit.checks[name]["statistic"])
        for name in sorted(shared)
        if all(_is_number(audit.checks[name].get("statistic")) for audit in found)
    }
    return {"score": _score, **alone}


def _row(
    access: str,
    signal: str,
    name: str,
    of: Callable[[Audit], float],
    sides: tuple[list[Audit], list[Audit]],
    calibration: set[str],
    test: set[str],
) -> Row | None:
    tampered, benign = sides
    judged = [audit for audit in tampered if audit.name in test]
    if not judged or not benign:
        return None
    threshold = chosen_threshold([of(audit) for audit in benign if audit.name in calibration])
    area = area_with_interval([of(a) for a in tampered], [of(a) for a in benign])
    return Row(access, signal, name, area, wilson([of(audit) > threshold for audit in judged]))


def _score(audit: Audit) -> float:
    if audit.score is None:
        raise InputError(f"{audit.name} has no score")
    return audit.score


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
