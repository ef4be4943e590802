"""Audit every variant, and measure its behaviour; an interrupted run goes on."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tqdm.auto import tqdm

from cna_lens import CnaLensError, InputError, audit, generate, prompt_set
from cna_lens.audit import ANSWER_TOKENS
from cna_lens.metrics import is_refusal, refusal_log_odds
from cna_lens.models import HookedModel
from cna_lens.results import AnyNeuron, Journal
from experiments.audit.bench import Bench
from experiments.audit.serving import Serving
from experiments.audit.variants import Variant, check_names

Access = Literal["weights", "activations", "answers"]
ACCESSES: tuple[Access, ...] = ("weights", "activations", "answers")
"""White box, grey box, and black box by greedy answers."""

LOOKED_AT: tuple[Access, ...] = ("weights", "activations")
"""The accesses for which the model itself is observed."""

BEHAVIOUR = "behaviour"

Attested = audit.Attestation | audit.AnswersAttestation


@dataclass(frozen=True)
class Auditor:
    """The audit against a fingerprint; one observation serves weights and activations."""

    fingerprint: audit.Fingerprint

    @classmethod
    def of(cls, model: HookedModel) -> Auditor:
        """The audit against a fingerprint that is taken of this model."""
        return cls(audit.fingerprint(model))

    @property
    def watched(self) -> frozenset[AnyNeuron]:
        """Every neuron with activations in the fingerprint."""
        reference = self.fingerprint.reference
        return frozenset(map(reference.layout.neuron, reference.watched.places.tolist()))

    def observe(self, model: HookedModel, *, access: Access, **settings: Any) -> audit.Observation:
        """Observe a model; the access "weights" observes all of it."""
        return audit.observe(model, self.fingerprint, access=access, **settings)

    def judge(self, seen: audit.Observation, *, access: Access) -> audit.Attestation:
        """Compare an observation, within the access, with the fingerprint."""
        if access not in LOOKED_AT:
            raise InputError(
                f"access is {access!r}, expected 'weights' or 'activations'; for answers call ask"
            )
        return audit.judge(seen, self.fingerprint, access=access)

    def ask(
        self, model: HookedModel, served: Serving | None = None, **settings: Any
    ) -> audit.AnswersAttestation:
        """Compare a model's answers to the canaries with the fingerprint's."""
        answers = answered(model, audit.Canaries.packaged().prompts, served, **settings)
        return audit.judge_refusals(
            list(map(is_refusal, answers)), self.fingerprint, model=self.fingerprint.model
        )


def run(
    variants: Sequence[Variant],
    bench: Bench,
    auditor: Auditor,
    journal: Journal,
    *,
    n_prompts: int = 24,
    progress: bool = True,
) -> None:
    """Make the audits that the journal lacks, at each access, and keep every record at once.

    An audit that raises one of cna_lens's errors, such as one that cannot read a quantised model's
    weights, is kept with the error's text and without a score.

    Args:
        variants: the models; each is entered once for all of its missing records.
        bench: the parts of variants.
        auditor: the audit.
        journal: keeps the records.
        n_prompts: number of held-out harmful requests on which the behaviour is measured.
        progress: show a bar over the variants.

    Raises:
        InputError: two variants have one name.
    """
    check_names(variants)
    requests = prompt_set("refusal_evaluation").positive[:n_prompts]
    for variant in tqdm(variants, desc="auditing", unit="variant", disable=not progress):
        accesses: list[Access] = [
            access for access in accesses_of(variant) if key(variant, access) not in journal
        ]
        behaviour = key(variant, BEHAVIOUR)
        if not accesses and behaviour in journal:
            continue
        about = described(variant, bench)
        began = time.perf_counter()
        with variant.enter(bench) as model:
            entered_in = time.perf_counter() - began
            served = {} if variant.served is None else {"served": variant.served}
            settings = {**variant.audited_with, **served}
            seed = zlib.crc32(variant.name.encode())
            for access, found in audited(auditor, model, accesses, settings, seed):
                journal.add(key(variant, access), {**about, **found})
            if behaviour not in journal:
                measured = behaviour_of(variant, model, requests)
                journal.add(behaviour, {**about, **measured, "entered_in": entered_in})


def accesses_of(variant: Variant) -> tuple[Access, ...]:
    """What can be audited: of a model that is only served in another way, its answers."""
    return ACCESSES if variant.side == "model" else ("answers",)


def answered(
    model: HookedModel, requests: Sequence[str], served: Serving | None = None, **settings: Any
) -> list[str]:
    """The beginnings of a model's answers, as it is served."""
    if served is None:
        return generate(model, requests, max_new_tokens=ANSWER_TOKENS, **settings)
    return served.answers(model, requests, ANSWER_TOKENS, **settings)


def behaviour_of(
    variant: Variant, model: HookedModel, requests: Sequence[str]
) -> dict[str, list[float] | list[bool]]:
    """The log-odds of a refusal of each request, and whether its answer refuses.

    Sampling, and tokens that no answer may begin with, change answers and leave the log-odds.
    """
    prompts = requests if variant.served is None else variant.served.prompts(model, requests)
    answers = answered(model, requests, variant.served)
    return {
        "log_odds": refusal_log_odds(model, prompts),
        "refused": list(map(is_refusal, answers)),
    }


def audited(
    auditor: Auditor,
    model: HookedModel,
    accesses: Sequence[Access],
    settings: Mapping[str, Any],
    seed: int,
) -> Iterator[tuple[Access, dict[str, Any]]]:
    """The audits of a model as plain data; weights and activations share one observation.

    Args:
        auditor: the audit.
        model: the model.
        accesses: what is audited.
        settings: how the model is run.
        seed: of sampled answers; equal draws for all variants would make their alarms one event.
    """
    looked_at = [access for access in accesses if access in LOOKED_AT]
    if "answers" in accesses:
        began = time.perf_counter()
        try:
            answers = auditor.ask(model, **settings)
        except CnaLensError as error:
            yield "answers", _failed("answers", error, began)
        else:
            yield "answers", _recorded("answers", answers, (), began)
    if not looked_at:
        return
    began = time.perf_counter()
    try:
        # The first access includes the second.
        seen = auditor.observe(model, access=looked_at[0], seed=seed, **settings)
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
    access: Access,
    found: Attested,
    checks: Sequence[Any],
    began: float,
) -> dict[str, Any]:
    return {
        "access": access,
        "verdict": found.verdict,
        "score": float(found.score),
        "checks": [asdict(check) for check in checks],
        "seconds": time.perf_counter() - began,
    }


def key(variant: Variant, part: str) -> str:
    """The key of a variant's record in the journal."""
    return f"{variant.name} | {part}"


def described(variant: Variant, bench: Bench) -> dict[str, Any]:
    """The fields of a variant that the analysis needs."""
    return {
        "name": variant.name,
        "kind": variant.kind,
        "tampered": variant.tampered,
        "side": variant.side,
        "model": bench.reference.name,
    }
