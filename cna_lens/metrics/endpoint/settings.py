"""Who is asked: a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

from cna_lens.errors import InputError, JudgeError

_OPENAI = "https://api.openai.com/v1"
_NO_KEY_NEEDED = "none"


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint, and how to ask it.

    >>> Endpoint("qwen3-32b", base_url="http://localhost:8000/v1").url
    'http://localhost:8000/v1'

    Args:
        model: its name at the endpoint.
        base_url: of the endpoint; else the environment's OPENAI_BASE_URL, else OpenAI's.
        api_key: else the environment's OPENAI_API_KEY; a base_url of your own may need none.
        max_concurrency: requests at once.
        timeout: seconds until a request counts as failed.
        retries: how often a request that timed out, lost its connection, or met HTTP 408, 429 or
            5xx is made again.
        backoff: seconds before the first retry, doubled for each further one, plus up to as much
            at random; a server's Retry-After is waited for, up to two minutes.
        temperature: None sends none, for models that take no temperature.

    Raises:
        InputError: a value that cannot be used.
    """

    model: str
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    max_concurrency: int = 8
    timeout: float = 60.0
    retries: int = 5
    backoff: float = 1.0
    temperature: float | None = 0.0

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
