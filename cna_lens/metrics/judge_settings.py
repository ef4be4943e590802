"""Who judges: a model behind an OpenAI-compatible endpoint, and how it is asked."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from cna_lens.errors import InputError
from cna_lens.metrics.endpoint import Endpoint
from cna_lens.metrics.judge_rubric import RUBRIC


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
