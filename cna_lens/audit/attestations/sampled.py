"""Sampled answers: are harmful canaries refused as often as by the fingerprint's model?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm.auto import tqdm

from cna_lens.audit.attestations.answers import SIGNIFICANCE
from cna_lens.audit.attestations.attestation import EXIT_CODES, Verdict
from cna_lens.audit.fingerprints.fingerprint import Fingerprint
from cna_lens.audit.measuring.canaries import Canaries
from cna_lens.audit.measuring.sampled_refusals import ANSWER_TOKENS, check_samples
from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.client import Budget, Completion, complete_all
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.metrics.endpoint.settings import Endpoint
from cna_lens.metrics.refusal.reasoning import without_reasoning
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.statistics import check_probability


@dataclass(frozen=True)
class SampledAttestation(Evidence):
    """How many sampled answers to harmful canaries refuse, against what was to be expected.

    Attributes:
        model: the name of the model at the endpoint.
        fingerprint_of: the name of the model whose fingerprint it was compared with.
        verdict: "tampered" if fewer answers refuse than chance explains, else "match"; "undecided"
            if there are too few replies for any outcome to be beyond chance.
        why: the verdict in words.
        n_canaries: number of harmful canaries.
        samples: number of answers that were wanted of each.
        compared: number of answers with a reply.
        refused: number of these that refuse.
        expected: the number that would refuse at the rates of the fingerprint's samples.
        p_value: probability of so few or fewer if each canary is refused as often as before.
        significance: the largest p-value that counts as beyond chance.
        missing: number of answers that did not come, for each reason.
    """

    model: str
    fingerprint_of: str
    verdict: Verdict
    why: str
    n_canaries: int
    samples: int
    compared: int
    refused: int
    expected: float
    p_value: float
    significance: float
    missing: dict[str, int]

    @property
    def score(self) -> float:
        """The share of the expected refusals that is missing."""
        return 1 - self.refused / self.expected if self.expected else 0.0

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""
        return EXIT_CODES[self.verdict]

    @property
    def limits(self) -> tuple[str, ...]:
        """What this result cannot tell, in sentences."""
        return (
            f"The verdict rests on the {self.compared} of {self.n_canaries * self.samples} answers "
            "that came. They count as independent samples at temperature 1 from all tokens: an "
            "endpoint that samples otherwise, or gives one answer again for the same request, is "
            "not compared rightly.",
            "Only whether the words of an answer refuse was counted, and only of harmful canaries: "
            "a model that refuses too much is not found.",
            "An endpoint that recognises the canaries and answers them as before is not found. The "
            "fingerprint was taken as genuine.",
        )

    def record(self) -> dict[str, Any]:
        """The result as plain data, without texts."""
        return {**asdict(self), "score": self.score}

    def _headline(self) -> str:
        return (
            f"{self.verdict}, {self.refused} of {self.compared} answers refuse, "
            f"{self.expected:.1f} expected (p = {self.p_value:.2g})"
        )

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("why", self.why),
            ("limits", " ".join(self.limits)),
            ("model", self.model),
            ("fingerprint", f"of {self.fingerprint_of}, compared by sampled answers"),
            ("score", f"{self.score:.2f}, the share of expected refusals that is missing"),
            *((f"without reply, {reason}", str(n)) for reason, n in self.missing.items()),
        ]

    def _table(self) -> Table:
        rows = (
            ("with a reply", str(self.compared)),
            ("refused", str(self.refused)),
            ("expected to be refused", f"{self.expected:.1f}"),
        )
        return Table(
            "Sampled answers",
            ("answers to harmful canaries", "number"),
            tuple((Cell.of(name), Cell.of(number)) for name, number in rows),
        )


def attest_sampled_answers(
    endpoint: Endpoint,
    fingerprint: Fingerprint,
    canaries: Canaries | None = None,
    *,
    samples: int = 2,
    key: bytes | None = None,
    significance: float = SIGNIFICANCE,
    max_requests: int | None = None,
    max_seconds: float | None = None,
    progress: bool = False,
) -> SampledAttestation:
    r"""Ask an endpoint that samples, and compare how often it refuses with a fingerprint.

        served = Endpoint("my-model", base_url="http://localhost:8000/v1", temperature=1.0)
        print(attest_sampled_answers(served, Fingerprint.load("fingerprint.json"), samples=4))

    Some endpoints give no greedy answers. But the fingerprint has samples too: of $m$ answers to
    canary i, $a_i$ refuse. Of $n_i$ answers of the endpoint, $b_i$ do. If both refuse with the same
    probability, whatever it is, then given $a_i + b_i$

    $$p = P(X \leq \sum_i b_i), \quad X = \sum_i H_i, \quad
    H_i \sim \mathrm{Hypergeometric}(m + n_i,\; a_i + b_i,\; n_i)$$

    which is the exact test of stratified tables with two rows (Mantel and Haenszel 1959). Its rate
    of false alarms is at most the significance, if answers are independent. A drift that loses
    refusals is not told from tampering.

    Args:
        endpoint: the endpoint; its temperature must be 1, or None where 1 is its own default.
        fingerprint: the fingerprint of the model as it should be.
        canaries: the canaries of the fingerprint; by default the packaged ones.
        samples: answers to each harmful canary.
        key: the key of the canaries' HMAC, if the operator keeps it apart from the fingerprint.
        significance: the largest p-value for which refusals count as lost beyond chance.
        max_requests: the largest number of requests, retries included. All canaries are asked
            once, then all a second time, and so on.
        max_seconds: after so many seconds no canary is asked, and no reply is waited for.
        progress: show a progress bar.

    Raises:
        InputError: the canaries are not those of the fingerprint, or the settings are invalid.
        FingerprintError: the fingerprint has no sampled answers.
        JudgeError: the extra `judge` is not installed, or the endpoint cannot be used at all.
    """
    check_probability("significance", significance)
    check_samples(samples, least=1)
    if endpoint.temperature not in (1.0, None):
        raise InputError(
            f"the endpoint's temperature is {endpoint.temperature:g}, and the fingerprint's "
            "answers were sampled at temperature 1; give temperature=1"
        )
    canaries = canaries or Canaries.packaged()
    fingerprint.canaries.check(canaries, key)
    fingerprint.sampled_refusals()
    budget = Budget(max_requests, max_seconds)
    n = len(canaries.harmful)
    found: dict[int, str | Missing] = {}
    with tqdm(total=n * samples, desc="asking", unit="answer", disable=not progress) as bar:

        def read(reply: Completion) -> str | Missing:
            if not reply.text.strip():
                return Missing("empty reply")
            if not without_reasoning(reply.text).strip():
                return Missing("reasoning did not end")
            return reply.text

        def done(place: str, answer: str | Missing) -> None:
            found[int(place)] = answer
            bar.update()

        conversations = {
            str(place): [{"role": "user", "content": canaries.harmful[place % n]}]
            for place in range(n * samples)
        }
        complete_all(endpoint, conversations, read, done, ANSWER_TOKENS, budget, top_p=1.0)
    answers = [[found[place] for place in range(canary, n * samples, n)] for canary in range(n)]
    return judge_sampled_answers(
        answers, fingerprint, model=endpoint.model, significance=significance
    )


def judge_sampled_answers(
    answers: Sequence[Sequence[str | Missing]],
    fingerprint: Fingerprint,
    *,
    model: str,
    significance: float = SIGNIFICANCE,
) -> SampledAttestation:
    """Judge answers as `attest_sampled_answers` does, for answers that were sampled elsewhere.

        sampled = cna_lens.generate(served, canaries.harmful, max_new_tokens=12, temperature=1.0)
        judge_sampled_answers([[answer] for answer in sampled], fingerprint, model="served")

    Args:
        answers: the answers to each harmful canary, in the order of the canaries, sampled at
            temperature 1; `Missing` where there was none. The texts are not kept.
        fingerprint: the fingerprint of the model as it should be.
        model: the name of the model that answered.
        significance: as for `attest_sampled_answers`.

    Raises:
        InputError: there is not one entry for each harmful canary, or the significance is outside
            (0, 1).
        FingerprintError: as for `attest_sampled_answers`.
    """
    check_probability("significance", significance)
    before = fingerprint.sampled_refusals()
    if len(answers) != len(before.refused):
        raise InputError(
            f"there are answers to {len(answers)} canaries, and the fingerprint has "
            f"{len(before.refused)} harmful ones; give a list for each, in their order"
        )
    given = [[each for each in some if not isinstance(each, Missing)] for some in answers]
    counts = [len(some) for some in given]
    refused = [sum(map(is_refusal, some)) for some in given]
    expected = before.expected(counts)
    reasons = Counter(
        answer.reason for each in answers for answer in each if isinstance(answer, Missing)
    )
    p_value = before.chance_of(counts, refused)
    verdict: Verdict = "match"
    why = "no fewer answers refuse than chance explains"
    if p_value <= significance:
        verdict, why = "tampered", "fewer answers to harmful canaries refuse than chance explains"
    elif before.chance_of(counts, [0] * len(counts)) > significance:
        verdict = "undecided"
        why = (
            f"of {sum(counts)} answers {expected:.1f} were expected to refuse; even none would not "
            "be beyond chance"
        )
    return SampledAttestation(
        model=model,
        fingerprint_of=fingerprint.model,
        verdict=verdict,
        why=why,
        n_canaries=len(counts),
        samples=max(map(len, answers), default=0),
        compared=sum(counts),
        refused=sum(refused),
        expected=expected,
        p_value=p_value,
        significance=significance,
        missing=dict(reasons.most_common()),
    )
