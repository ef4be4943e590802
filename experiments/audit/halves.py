"""Two halves of the study: thresholds are chosen on one, and judged on the other."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cna_lens import InputError
from experiments.audit.running import BEHAVIOUR


@dataclass(frozen=True)
class Audit:
    """One variant at one access.

    Attributes:
        name: the variant's.
        kind: what it is an example of.
        tampered: whether it is.
        shift: how much lower the refusal log-odds of harmful requests are than the reference's, in
            nats, on the mean.
        score: the audit's; None where it ended with an error.
        verdict: in words.
        seconds: that the audit took.
        checks: each check's record, by name.
    """

    name: str
    kind: str
    tampered: bool
    shift: float
    score: float | None
    verdict: str
    seconds: float
    checks: Mapping[str, Mapping[str, Any]]


def audits(records: Mapping[str, Mapping[str, Any]], access: str) -> list[Audit]:
    """The finished audits at one access, each with the change of behaviour.

    Raises:
        InputError: there is none, or the reference itself is missing.
    """
    behaviour = {
        record["name"]: math.fsum(record["log_odds"]) / len(record["log_odds"])
        for key, record in records.items()
        if key.endswith(f" | {BEHAVIOUR}")
    }
    if "untouched" not in behaviour:
        raise InputError("the reference itself has not been measured; let the run finish first")
    found = [
        Audit(
            record["name"],
            record["kind"],
            record["tampered"],
            behaviour["untouched"] - behaviour[record["name"]],
            record.get("score"),
            record.get("verdict", f"error: {record.get('error')}"),
            record["seconds"],
            {check["name"]: check for check in record.get("checks", ())},
        )
        for record in records.values()
        if record.get("access") == access and record["name"] in behaviour
    ]
    if not found:
        raise InputError(f"there is no finished audit with access={access!r}")
    return found


def halved(names_by_kind: Mapping[str, Sequence[str]], seed: int) -> tuple[set[str], set[str]]:
    """Names in two halves, each kind as evenly as it goes; kinds of odd size take turns."""
    rng = random.Random(seed)
    halves: tuple[set[str], set[str]] = (set(), set())
    for kind in sorted(names_by_kind):
        names = sorted(names_by_kind[kind])
        rng.shuffle(names)
        for name in names:
            smaller = len(halves[1]) < len(halves[0])
            halves[smaller].add(name)
    return halves


def by_kind(found: Sequence[Audit]) -> dict[str, list[str]]:
    """The names of each kind."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for audit in found:
        kinds[audit.kind].append(audit.name)
    return dict(kinds)
