"""What is read of the studies of several models: one half of the variants, or both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cna_lens import InputError
from experiments.audit.analysis import Level, analysed, found_at_levels
from experiments.audit.halves import OLDEST_MODEL, Audit, Half, halves_of
from experiments.audit.held_out import Row, held_out_rows
from experiments.audit.running import ACCESSES

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """One variant of one model: what it does to refusals, and what the audit says.

    Attributes:
        model: the reference that was changed.
        name: the variant's name.
        kind: its kind.
        tampered: whether it is an attack.
        side: "model" if the model was changed, "serving" if only the way to its answers was.
        shift: lost refusal log-odds of held-out harmful requests, their mean in nats.
        refused: how many of these are refused; None in older records.
        verdicts: by access.
        scores: by access, None where the audit ended with an error.
    """

    model: str
    name: str
    kind: str
    tampered: bool
    side: str
    shift: float
    refused: int | None
    verdicts: Mapping[str, str]
    scores: Mapping[str, float | None]


def outcomes(found: Mapping[str, Sequence[Audit]]) -> tuple[Outcome, ...]:
    """Every variant of every model once, from the audits at each access."""
    by_variant: dict[tuple[str, str], dict[str, Audit]] = {}
    for access, audits in found.items():
        for audit in audits:
            by_variant.setdefault((audit.model, audit.name), {})[access] = audit
    return tuple(
        Outcome(
            model,
            name,
            (any_access := next(iter(each.values()))).kind,
            any_access.tampered,
            any_access.side,
            any_access.shift,
            any_access.refused,
            {access: audit.verdict for access, audit in each.items()},
            {access: audit.score for access, audit in each.items()},
        )
        for (model, name), each in sorted(by_variant.items())
    )


@dataclass(frozen=True)
class Reading:
    """The analysis of one half of the variants, or of both.

    Attributes:
        half: what was read.
        sizes: number of variants in each half.
        sha256: of the names in each half, which shows later that they were not drawn again.
        levels: each access level to each model.
        held_out: what is found of kinds and models that took no part.
        variants: what was read of each variant.
    """

    half: Half
    sizes: tuple[int, int]
    sha256: tuple[str, str]
    levels: tuple[Level, ...]
    held_out: tuple[Row, ...]
    variants: tuple[Outcome, ...]

    @classmethod
    def of(
        cls,
        studies: Sequence[Records],
        half: Half,
        seed: int,
        seen: Collection[tuple[str, str]] = (),
    ) -> Reading:
        """Analyse the studies, one for each model.

        Args:
            studies: the records of each model's study.
            half: what is read of them.
            seed: of the halves and the bootstrap.
            seen: models and names of variants that are left out, because the rules were made by
                people who had seen them.

        Raises:
            InputError: two studies are of one model, or a side has too few variants.
        """
        first, second = halves_of(studies, seed)
        of_half = {"first": first, "second": second, "both": first | second}[half]
        names = [
            frozenset(name for name in of_half if (_model_of(records), name) not in seen)
            for records in studies
        ]
        at_levels = [
            found_at_levels(records, read) for records, read in zip(studies, names, strict=True)
        ]
        models = [each.model for found in at_levels for each in next(iter(found.values()), [])[:1]]
        if twice := sorted({model for model in models if models.count(model) > 1}):
            raise InputError(
                f"two folders hold audits of {twice[0]}; give one folder for each model"
            )
        pooled = {
            access: [audit for found in at_levels for audit in found.get(access, ())]
            for access in ACCESSES
        }
        return cls(
            half,
            (len(first), len(second)),
            (_hash(first), _hash(second)),
            tuple(
                level
                for records, read in zip(studies, names, strict=True)
                for level in analysed(records, seed=seed, names=read)
            ),
            tuple(row for access in pooled for row in held_out_rows(pooled[access], access)),
            outcomes(pooled),
        )

    def record(self) -> dict[str, Any]:
        """As plain data; what belongs to a half is named by it.

        Rows of single kinds are left out: what is said of each variant tells more.
        """
        names = ("first", "second")
        kept = {"all", *(level.model for level in self.levels)}
        halves = {
            name: {"variants": size, "sha256": sha256}
            for name, size, sha256 in zip(names, self.sizes, self.sha256, strict=True)
        }
        return {
            "half": self.half,
            "halves": halves,
            "levels": [asdict(level) for level in self.levels],
            "held_out": [asdict(row) for row in self.held_out if row.of in kept],
            "variants": [asdict(each) for each in self.variants],
        }


def seen_in(record: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Models and names of the variants that a reading's record lists."""
    return frozenset((each["model"], each["name"]) for each in record["variants"])


def _model_of(records: Records) -> str:
    return next(iter(records.values())).get("model", OLDEST_MODEL) if records else OLDEST_MODEL


def _hash(names: frozenset[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(names)).encode()).hexdigest()
