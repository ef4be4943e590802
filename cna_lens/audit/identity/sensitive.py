"""Sensitive canaries: ordinary prompts whose answers a small change of the weights moves."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from cna_lens.audit.identity.predicted import deviation
from cna_lens.errors import FingerprintError
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.results.statistics import Rate, wilson
from cna_lens.results.versioned import VersionedJson

By = Literal["text", "log-probabilities"]
"""What is compared: the words of an answer, or the log-probabilities of its tokens too."""

CUT = Missing("answer cut short")
NO_LOG_PROBS = Missing("reply without log-probabilities")

FILE: Final = VersionedJson(
    "cna_lens.sensitive_canaries", 1, "canaries", FingerprintError, "choose the canaries again"
)


@dataclass(frozen=True)
class Drifted:
    """How many canaries the genuine model answers otherwise under a drift.

    Attributes:
        drift: the name of the drift.
        text: number of canaries with another answer.
        log_probs: number of canaries with another answer, or log-probabilities beyond tolerance.
    """

    drift: str
    text: int
    log_probs: int


@dataclass(frozen=True, eq=False)
class SensitiveCanaries:
    """Prompts with what the genuine model answers, which `sensitive_canaries` has chosen.

    The prompts stand here as they are sent, so this file is the operator's secret. The answers
    are kept as keyed hashes.

    Attributes:
        model: the name of the model.
        template_sha256: the hash of its chat template; None if there is none.
        n_tokens: number of tokens of each answer.
        prompts: the canaries, the one that adds most first.
        answers: HMAC-SHA256 of each greedy answer after each of its tokens.
        log_probs: log-probability of each token of each answer, in nats.
        tolerances: for each canary, the root mean square change of its log-probabilities beyond
            which they count as changed, in nats.
        moves_at: for each canary, the relative change of all neurons' output weights that has a
            change of the margin as large as the margin itself as its standard deviation.
        drifted: how many canaries are answered otherwise under each drift.
        n_pool: number of prompts that the canaries were chosen from.
        n_stable: number of these whose answers no drift moves.
        key: the key of the hashes, in hexadecimal.
        versions: name and version of each library that computes.
    """

    model: str
    template_sha256: str | None
    n_tokens: int
    prompts: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    log_probs: tuple[tuple[float, ...], ...]
    tolerances: tuple[float, ...]
    moves_at: tuple[float, ...]
    drifted: tuple[Drifted, ...]
    n_pool: int
    n_stable: int
    key: str
    versions: tuple[tuple[str, str], ...]

    def expected(self, by: By) -> Rate:
        """The share of canaries that drift changes: that of the drift that changes most.

        The null hypothesis of `attest_identity` allows the upper end of its interval.

        Args:
            by: what is compared.
        """
        n = len(self.prompts)
        counts = [each.text if by == "text" else each.log_probs for each in self.drifted]
        return wilson([place < max(counts) for place in range(n)])

    def is_changed(
        self,
        place: int,
        text: str,
        log_probs: Sequence[float] | None = None,
        *,
        by: By = "text",
        is_cut: bool = True,
    ) -> bool | Missing:
        """Whether an answer is another one than the genuine model's.

        Args:
            place: the place of the canary.
            text: the answer; spaces at its ends do not count.
            log_probs: the log-probability of each of its tokens, in nats.
            by: what is compared.
            is_cut: whether the answer ended because it had as many tokens as were allowed.

        Returns:
            Missing where nothing was answered, where the answer is the genuine one and was cut
            before it had all its tokens, or where its log-probabilities are to be compared and
            are not there.
        """
        if not text.strip():
            return Missing("empty reply")
        found, expected = hashed(text, bytes.fromhex(self.key)), self.answers[place]
        if found != expected[-1]:
            return CUT if is_cut and found in expected else True
        if by == "text":
            return False
        if log_probs is None or len(log_probs) < self.n_tokens:
            return NO_LOG_PROBS
        now, before = (
            torch.tensor(each, dtype=torch.float64)
            for each in (log_probs[: self.n_tokens], self.log_probs[place])
        )
        return bool(deviation(now, before) > self.tolerances[place])

    def save(self, path: str | Path) -> None:
        """Write the canaries as JSON, prompts included; an existing file is replaced whole."""
        FILE.save(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> SensitiveCanaries:
        """Read canaries that `save` wrote.

        Raises:
            FingerprintError: the file is missing, damaged, or of a later version.
        """
        return FILE.load(path, _canaries)

    def __repr__(self) -> str:
        """One useful line."""
        return (
            f"SensitiveCanaries(model {self.model}, {len(self.prompts)} of {self.n_pool} prompts, "
            f"{self.n_tokens} tokens each, drift changes {self.expected('text')})"
        )


def hashed(text: str, key: bytes) -> str:
    """HMAC-SHA256 of an answer without the spaces at its ends."""
    return hmac.new(key, text.strip().encode(), hashlib.sha256).hexdigest()


def _canaries(body: Mapping[str, Any]) -> SensitiveCanaries:
    return SensitiveCanaries(
        model=str(body["model"]),
        template_sha256=body["template_sha256"],
        n_tokens=int(body["n_tokens"]),
        prompts=tuple(map(str, body["prompts"])),
        answers=tuple(map(tuple, body["answers"])),
        log_probs=tuple(map(tuple, body["log_probs"])),
        tolerances=tuple(body["tolerances"]),
        moves_at=tuple(body["moves_at"]),
        drifted=tuple(Drifted(**each) for each in body["drifted"]),
        n_pool=int(body["n_pool"]),
        n_stable=int(body["n_stable"]),
        key=str(body["key"]),
        versions=tuple(map(tuple, body["versions"])),
    )
