"""Audit every variant, and measure what it does; an interrupted run goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from tqdm.auto import tqdm

from cna_lens import CnaLensError, prompt_set
from cna_lens.journal import Journal
from cna_lens.metrics import refusal_log_odds
from cna_lens.sites import HookedModel
from experiments.audit_study.bench import Bench
from experiments.audit_study.variants import Variant, check_names

Access = Literal["weights", "activations"]
ACCESSES: tuple[Access, ...] = ("weights", "activations")
BEHAVIOUR = "behaviour"


class Attested(Protocol):
    """What the audit says of a model."""

    verdict: str
    score: float
    checks: tuple[Any, ...]


class Attest(Protocol):
    """The audit against a fingerprint of the reference."""

    def __call__(self, model: HookedModel, *, access: Access, **settings: Any) -> Attested:
        """Compare a model with the fingerprint."""
        ...


def run(
    variants: Sequence[Variant],
    bench: Bench,
    attest: Attest,
    journal: Journal,
    *,
    n_prompts: int = 24,
    progress: bool = True,
) -> None:
    """Audit what the journal lacks, at each access, and keep every record at once.

    An audit that raises one of cna_lens's errors, such as one that cannot read a quantised model's
    weights, is kept with the error's text and without a score.

    Args:
        variants: the models; each is entered once for all that it lacks.
        bench: what they are made of.
        attest: the audit.
        journal: where records are kept.
        n_prompts: held-out harmful requests on which the change of behaviour is measured.
        progress: show a bar over the variants.

    Raises:
        InputError: two variants have one name.
    """
    check_names(variants)
    requests = prompt_set("refusal_evaluation").positive[:n_prompts]
    for variant in tqdm(variants, desc="auditing", unit="variant", disable=not progress):
        accesses = [access for access in ACCESSES if key(variant, access) not in journal]
        behaviour = key(variant, BEHAVIOUR)
        if not accesses and behaviour in journal:
            continue
        with variant.enter(bench) as model:
            for access in accesses:
                found = audited(attest, model, access, variant.audited_with)
                journal.add(key(variant, access), {**described(variant), **found})
            if behaviour not in journal:
                log_odds = refusal_log_odds(model, requests)
                journal.add(behaviour, {**described(variant), "log_odds": log_odds})


def audited(
    attest: Attest, model: HookedModel, access: Access, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """One audit as plain data."""
    began = time.perf_counter()
    try:
        found = attest(model, access=access, **settings)
    except CnaLensError as error:
        return {"access": access, "error": str(error), "seconds": time.perf_counter() - began}
    return {
        "access": access,
        "verdict": found.verdict,
        "score": float(found.score),
        "checks": [asdict(check) for check in found.checks],
        "seconds": time.perf_counter() - began,
    }


def key(variant: Variant, part: str) -> str:
    """Where a record of a variant stands."""
    return f"{variant.name} | {part}"


def described(variant: Variant) -> dict[str, Any]:
    """What analysis needs to know of a variant."""
    return {"name": variant.name, "kind": variant.kind, "tampered": variant.tampered}
