"""Audit every variant, and measure what it does; an interrupted run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from tqdm.auto import tqdm

from cna_lens import CnaLensError, prompt_set
from cna_lens.metrics import refusal_log_odds
from cna_lens.models import HookedModel
from cna_lens.results import Journal
from experiments.audit.bench import Bench
from experiments.audit.variants import Variant, check_names

Access = Literal["weights", "activations", "answers"]
ACCESSES: tuple[Access, ...] = ("weights", "activations", "answers")
"""White box, grey box and black box."""

BEHAVIOUR = "behaviour"


class Attested(Protocol):
    """What the audit says of a model."""

    @property
    def verdict(self) -> str:
        """In words."""
        ...

    @property
    def score(self) -> float:
        """The higher, the likelier tampered with."""
        ...


class Judged(Attested, Protocol):
    """What it says of weights and activations."""

    @property
    def checks(self) -> tuple[Any, ...]:
        """Its checks."""
        ...


class Auditor(Protocol):
    """The audit against a fingerprint of the reference; one look serves weights and activations."""

    def observe(self, model: HookedModel, *, access: Access, **settings: Any) -> Any:
        """Look at a model, with "weights" at all of it."""
        ...

    def judge(self, seen: Any, *, access: Access) -> Judged:
        """What was seen, as far as the access goes, beside the fingerprint."""
        ...

    def ask(self, model: HookedModel, **settings: Any) -> Attested:
        """Its answers alone, beside the fingerprint's."""
        ...


def run(
    variants: Sequence[Variant],
    bench: Bench,
    auditor: Auditor,
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
        auditor: the audit.
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
            for access, found in audited(auditor, model, accesses, variant.audited_with):
                journal.add(key(variant, access), {**described(variant), **found})
            if behaviour not in journal:
                log_odds = refusal_log_odds(model, requests)
                journal.add(behaviour, {**described(variant), "log_odds": log_odds})


def audited(
    auditor: Auditor,
    model: HookedModel,
    accesses: Sequence[Access],
    settings: Mapping[str, Any],
) -> Iterator[tuple[Access, dict[str, Any]]]:
    """The audits of a model as plain data; it runs once for weights and activations together."""
    looked_at = [access for access in accesses if access != "answers"]
    if "answers" in accesses:
        began = time.perf_counter()
        try:
            answered = auditor.ask(model, **settings)
        except CnaLensError as error:
            yield "answers", _failed("answers", error, began)
        else:
            yield "answers", _recorded("answers", answered, (), began)
    if not looked_at:
        return
    began = time.perf_counter()
    try:
        # The first access sees most.
        seen = auditor.observe(model, access=looked_at[0], **settings)
    except CnaLensError as error:
        yield from ((access, _failed(access, error, began)) for access in looked_at)
        return
    looking = time.perf_counter() - began
    for access in looked_at:
        began = time.perf_counter() - looking
        found = auditor.judge(seen, access=access)
        yield access, _recorded(access, found, found.checks, began)


def _failed(access: Access, error: CnaLensError, began: float) -> dict[str, Any]:
    return {"access": access, "error": str(error), "seconds": time.perf_counter() - began}


def _recorded(
    access: Access, found: Attested, checks: Sequence[Any], began: float
) -> dict[str, Any]:
    return {
        "access": access,
        "verdict": found.verdict,
        "score": float(found.score),
        "checks": [asdict(check) for check in checks],
        "seconds": time.perf_counter() - began,
    }


def key(variant: Variant, part: str) -> str:
    """Where a record of a variant stands."""
    return f"{variant.name} | {part}"


def described(variant: Variant) -> dict[str, Any]:
    """What analysis needs to know of a variant."""
    return {"name": variant.name, "kind": variant.kind, "tampered": variant.tampered}
