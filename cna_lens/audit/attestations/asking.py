"""Ask an endpoint the canaries, and judge what it refuses."""

from __future__ import annotations

from dataclasses import replace

from tqdm.auto import tqdm

from cna_lens.audit.attestations.answers import (
    SIGNIFICANCE,
    AnswersAttestation,
    judge_refusals,
)
from cna_lens.audit.fingerprints.fingerprint import Fingerprint
from cna_lens.audit.identity.asking import attest_identity
from cna_lens.audit.identity.sensitive import SensitiveCanaries
from cna_lens.audit.measuring.canaries import Canaries
from cna_lens.audit.measuring.sampled_refusals import ANSWER_TOKENS
from cna_lens.errors import FingerprintError, InputError
from cna_lens.metrics.endpoint.client import Budget, Completion, complete_all
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.metrics.endpoint.settings import Endpoint
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.results.statistics import check_probability


def attest_answers(
    endpoint: Endpoint,
    fingerprint: Fingerprint,
    canaries: Canaries | None = None,
    *,
    key: bytes | None = None,
    significance: float = SIGNIFICANCE,
    max_new_tokens: int = ANSWER_TOKENS,
    max_requests: int | None = None,
    max_seconds: float | None = None,
    sensitive: SensitiveCanaries | None = None,
    progress: bool = False,
) -> AnswersAttestation:
    r"""Ask an endpoint the canaries, and compare its refusals with those of a fingerprint.

        served = Endpoint("my-model", base_url="http://localhost:8000/v1")
        print(attest_answers(served, Fingerprint.load("fingerprint.json")))

    Only whether the words of an answer refuse (`is_refusal`) is used. If b harmful canaries are no
    longer refused and c are newly refused, the exact one-sided test of McNemar is

    $$p = P(B \geq b), \quad B \sim \mathrm{Binomial}(b + c, 1/2)$$

    The same test, with b benign canaries newly refused and c no longer, asks for over-refusal.
    It cannot see a change that leaves refusals within the first tokens as they are, nor an endpoint
    that recognises the canaries and answers them as before: keep your own canaries secret.

    With sensitive canaries, `attest_identity` asks a second question, whether it is the model at
    all. Both results stand beside each other: a model can refuse as before and be another one.

    Args:
        endpoint: the endpoint; its default temperature is 0, as for the fingerprint's answers.
        fingerprint: the fingerprint of the model as it should be.
        canaries: the canaries of the fingerprint; by default the packaged ones.
        key: the key of the canaries' HMAC, if the operator keeps it apart from the fingerprint.
        significance: the largest p-value for which refusals count as lost, or as added, beyond
            chance.
        max_new_tokens: the largest number of tokens in an answer, as in the fingerprint.
        max_requests: the largest number of requests, retries included; None asks all canaries. The
            canaries are asked in turn, a harmful one and a benign one, in their order. Sensitive
            canaries may take half of the requests and of the seconds.
        max_seconds: after so many seconds no canary is asked, and no reply is waited for.
        sensitive: the sensitive canaries of the model as it should be.
        progress: show a progress bar.

    Raises:
        InputError: the canaries are not those of the fingerprint, or the settings are invalid.
        FingerprintError: the sensitive canaries are of a model with another chat template.
        JudgeError: the extra `judge` is not installed, or the endpoint cannot be used at all.
    """
    check_probability("significance", significance)
    canaries = canaries or Canaries.packaged()
    fingerprint.canaries.check(canaries, key)
    budget = Budget(max_requests, max_seconds)
    identity = None
    if sensitive is not None:
        _check_same_template(sensitive, fingerprint)
        half = _half(budget)
        budget = Budget(
            None if max_requests is None else max_requests - (half.max_requests or 0),
            half.max_seconds,
        )
        identity = attest_identity(
            endpoint,
            sensitive,
            false_alarm_rate=significance,
            max_requests=half.max_requests,
            max_seconds=half.max_seconds,
            progress=progress,
        )
    found = _refusals(endpoint, canaries, max_new_tokens, budget, progress)
    now = [found[str(place)] for place in range(len(canaries.prompts))]
    refusals = judge_refusals(now, fingerprint, model=endpoint.model, significance=significance)
    return replace(refusals, identity=identity)


def _half(budget: Budget) -> Budget:
    requests, seconds = budget.max_requests, budget.max_seconds
    if requests == 1:
        raise InputError("max_requests is 1, expected at least 2: two questions are asked")
    return Budget(
        None if requests is None else requests // 2, None if seconds is None else seconds / 2
    )


def _check_same_template(sensitive: SensitiveCanaries, fingerprint: Fingerprint) -> None:
    if sensitive.template_sha256 != fingerprint.template_sha256:
        raise FingerprintError(
            f"the sensitive canaries are of {sensitive.model}, whose chat template is not that of "
            f"the fingerprint's model, {fingerprint.model}; choose them on the same model"
        )


def _refusals(
    endpoint: Endpoint,
    canaries: Canaries,
    max_new_tokens: int,
    budget: Budget,
    progress: bool,
) -> dict[str, bool | Missing]:
    found: dict[str, bool | Missing] = {}
    prompts = canaries.prompts
    with tqdm(total=len(prompts), desc="asking", unit="canary", disable=not progress) as bar:

        def done(place: str, refused: bool | Missing) -> None:
            found[place] = refused
            bar.update()

        def in_turn(placed: tuple[int, str]) -> int:
            # The order must not depend on what was refused before: the test would be biased.
            return placed[0] % len(canaries.harmful)

        def read(reply: Completion) -> bool | Missing:
            return is_refusal(reply.text) if reply.text.strip() else Missing("empty reply")

        conversations = {
            str(place): [{"role": "user", "content": prompt}]
            for place, prompt in sorted(enumerate(prompts), key=in_turn)
        }
        complete_all(endpoint, conversations, read, done, max_new_tokens, budget)
    return found
