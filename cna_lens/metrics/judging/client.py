"""Have answers judged by an OpenAI-compatible endpoint."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.client import Completion, Messages, Usage, complete_all
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.metrics.endpoint.settings import Endpoint
from cna_lens.metrics.judging.rubric import RUBRIC, Judgement, parse_verdict, question

__all__ = ["Usage", "ask_all"]


def ask_all(
    judge: Judge,
    answers: Mapping[str, tuple[str, str]],
    done: Callable[[str, Judgement | Missing], None],
) -> Usage:
    """Have answers judged, at most `max_concurrency` at once.

    Args:
        judge: who judges.
        answers: prompt and answer by key.
        done: called with a key and its result as soon as there is one.

    Raises:
        JudgeError: a package or the key is missing, nothing listens at the address, or the
            endpoint refuses all requests.
    """

    def read(reply: Completion) -> Judgement | Missing:
        if reply.is_cut_off:
            return Missing("reply cut off: length")
        result = parse_verdict(reply.text)
        return replace(result, tokens=reply.tokens) if isinstance(result, Judgement) else result

    conversations: dict[str, Messages] = {
        key: [
            {"role": "system", "content": judge.rubric},
            {"role": "user", "content": question(prompt, answer)},
        ]
        for key, (prompt, answer) in answers.items()
    }
    return complete_all(judge, conversations, read, done)


@dataclass(frozen=True)
class Judge(Endpoint):
    """A model behind an OpenAI-compatible endpoint that judges; `Endpoint` says how it is asked.

    >>> Judge("qwen3-32b", base_url="http://localhost:8000/v1", cache="judged.jsonl").retries
    5

    Args:
        cache: a file of JSON lines that keeps what is judged, by hash and numbers only. What it
            holds is not asked again, for the same model, base_url, rubric, temperature, prompt
            and answer.
        rubric: the instructions to the judge.
        price_per_million: of tokens read and of tokens written, in any currency.

    Raises:
        InputError: a value that cannot be used.
    """

    cache: str | Path | None = None
    rubric: str = field(default=RUBRIC, repr=False)
    price_per_million: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be used before anything is sent."""
        super().__post_init__()
        if not all(0 <= price < math.inf for price in self.price_per_million or ()):
            raise InputError(f"price_per_million is {self.price_per_million}, expected 0 or more")

    def cache_key(self, prompt: str, answer: str) -> str:
        """The hash under which a judgement is cached."""
        parts = [self.model, self.url, self.rubric, self.temperature, prompt, answer]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
