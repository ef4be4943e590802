"""Two halves of the study: thresholds are chosen on one and judged on the other."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cna_lens import InputError
from experiments.audit.running import BEHAVIOUR

Half = Literal["first", "second", "both"]

OLDEST_MODEL, MODEL_SIDE = "demo-refusal", "model"
"""What records without these fields are of."""


@dataclass(frozen=True)
class Audit:
    """One variant at one access.

    Attributes:
        name: the variant's name.
        kind: its kind, for which results are given together.
        tampered: whether it is tampered with.
        shift: the mean refusal log-odds of harmful requests of the reference less the variant's, in
            nats.
        score: the audit's score; None if it ended with an error.
        verdict: in words.
        seconds: time of the audit.
        checks: each check's record, by name.
        model: the name of the reference that was changed.
        side: "model" if the model was changed, "serving" if only the way to its answers was.
        refused: how many of the harmful requests it refuses; None in older records.
    """

    name: str
    kind: str
    tampered: bool
    shift: float
    score: float | None
    verdict: str
    seconds: float
    checks: Mapping[str, Mapping[str, Any]]
    model: str = OLDEST_MODEL
    side: str = MODEL_SIDE
    refused: int | None = None


def audits(records: Mapping[str, Mapping[str, Any]], access: str) -> list[Audit]:
    """The finished audits of one model at one access, each with the change of behaviour.

    A change on the serving side leaves weights and activations as they are, so that it is an audit
    of answers alone.

    Raises:
        InputError: there is none, or the reference itself is missing.
    """
    measured = {
        record["name"]: record for key, record in records.items() if key.endswith(f" | {BEHAVIOUR}")
    }
    behaviour = {
        name: math.fsum(record["log_odds"]) / len(record["log_odds"])
        for name, record in measured.items()
    }
    if "untouched" not in behaviour:
        raise InputError(
            "the records lack the variant 'untouched', the reference itself; let the run finish"
        )
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
            record.get("model", OLDEST_MODEL),
            record.get("side", MODEL_SIDE),
            sum(refused) if (refused := measured[record["name"]].get("refused")) else None,
        )
        for record in records.values()
        if record.get("access") == access
        and record["name"] in behaviour
        and (access == "answers" or record.get("side", MODEL_SIDE) == MODEL_SIDE)
    ]
    if not found:
        raise InputError(f"there is no finished audit with access={access!r}")
    return found


def halved(names_by_kind: Mapping[str, Sequence[str]], seed: int) -> tuple[set[str], set[str]]:
    """Names in two halves, each kind as evenly as possible; kinds of odd size take turns."""
    rng = random.Random(seed)
    halves: tuple[set[str], set[str]] = (set(), set())
    for kind in sorted(names_by_kind):
        names = sorted(names_by_kind[kind])
        rng.shuffle(names)
        for name in names:
            smaller = len(halves[1]) < len(halves[0])
            halves[smaller].add(name)
    return halves


def halves_of(
    studies: Sequence[Mapping[str, Mapping[str, Any]]], seed: int
) -> tuple[frozenset[str], frozenset[str]]:
    """The names of all variants of some studies, in halves by kind.

    A variant is in the same half for every model, whether its audit ended with an error or not.
    Variants that are added later change the halves, so let all runs finish first.

    Raises:
        InputError: one name has two kinds.
    """
    kinds: dict[str, str] = {}
    for records in studies:
        for record in records.values():
            name, kind = record["name"], record.get("kind")
            if kind is not None and kinds.setdefault(name, kind) != kind:
                raise InputError(
                    f"{name!r} is of kind {kinds[name]!r} in one record and {kind!r} in another; "
                    "give one name to one kind"
                )
    names: dict[str, list[str]] = defaultdict(list)
    for name, kind in kinds.items():
        names[kind].append(name)
    first, second = halved(names, seed)
    return frozenset(first), frozenset(second)


def by_kind(found: Sequence[Audit]) -> dict[str, list[str]]:
    """The names of each kind."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for audit in found:
        kinds[audit.kind].append(audit.name)
    return dict(kinds)
