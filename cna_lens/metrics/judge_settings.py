"""Who judges: a model behind an OpenAI-compatible endpoint, and how it is asked."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

from cna_lens.errors import InputError, JudgeError
from cna_lens.metrics.judge_rubric import RUBRIC

_OPENAI = "https://api.openai.com/v1"
_NO_KEY_NEEDED = "none"


@dataclass(frozen=True)
class Judge:
    """A model behind an OpenAI-compatible endpoint, and how to ask it.

    >>> Judge("qwen3-32b", base_url="http://localhost:8000/v1", cache="judged.jsonl").retries
    5

    Args:
        model: its name at the endpoint.
        base_url: of the endpoint; else the environment's OPENAI_BASE_URL, else OpenAI's.
        api_key: else the environment's OPENAI_API_KEY; a base_url of your own may need none.
        cache: a file of JSON lines that keeps what is judged, by hash and numbers only. What it
            holds is not asked again, for the same model, base_url, rubric, temperature, prompt
            and answer.
        max_concurrency: requests at once.
        timeout: seconds until a request counts as failed.
        retries: how often a request that timed out, lost its connection, or met HTTP 408, 429 or
            5xx is made again.
        backoff: seconds before the first retry, doubled for each further one, plus up to as much
            at random; a server's Retry-After is waited for, up to two minutes.
        temperature: None sends none, for models that take no temperature.
        rubric: the instructions to the judge.
        price_per_million: of tokens read and of tokens written, in any currency.

    Raises:
        InputError: a value that cannot be used.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    cache: str | Path | None = None
    max_concurrency: int = 8
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    temperature: float | None = 0.0
    rubric: str = field(default=RUBRIC, repr=False)
    price_per_million: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be used before anything is sent."""
        if not self.model:
            raise InputError("model is empty, expected the name of a model at the endpoint")
        if self.max_concurrency < 1:
            raise InputError(f"max_concurrency is {self.max_concurrency}, expected at least 1")
        if not 0 < self.timeout < math.inf:
            raise InputError(f"timeout is {self.timeout}, expected seconds above 0")
        if self.retries < 0:
            raise InputError(f"retries is {self.retries}, expected 0 or more")
        if not 0 <= self.backoff < math.inf:
            raise InputError(f"backoff is {self.backoff}, expected 0 seconds or more")
        if not all(0 <= price < math.inf for price in self.price_per_million or ()):
            raise InputError(f"price_per_million is {self.price_per_million}, expected 0 or more")

    @property
    def url(self) -> str:
        """The base URL that is asked.

        Raises:
            InputError: it does not start with http:// or https://.
        """
        url = (self.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise InputError(f"base_url is {url!r}, expected it to start with http:// or https://")
        return url

    @property
    def secret(self) -> str:
        """The API key that is sent.

        Raises:
            JudgeError: OpenAI's endpoint needs one, and there is none.
        """
        secret = self.api_key or os.environ.get("OPENAI_API_KEY")
        if not secret and self.url == _OPENAI:
            raise JudgeError(
                "OpenAI's endpoint needs a key: give api_key, set OPENAI_API_KEY, or give the "
                "base_url of a server of your own"
            )
        return secret or _NO_KEY_NEEDED

    def cache_key(self, prompt: str, answer: str) -> str:
        """The hash under which a judgement is cached."""
        parts = [self.model, self.url, self.rubric, self.temperature, prompt, answer]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
