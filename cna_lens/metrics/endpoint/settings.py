"""Settings of an OpenAI-compatible endpoint."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from numbers import Integral

from cna_lens.errors import InputError, JudgeError

_OPENAI = "https://api.openai.com/v1"
_NO_KEY_NEEDED = "none"


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint, and how to ask it.

    >>> Endpoint("qwen3-32b", base_url="http://localhost:8000/v1").url
    'http://localhost:8000/v1'

    Args:
        model: the model's name at the endpoint.
        base_url: the endpoint's URL, by default the environment's OPENAI_BASE_URL, else OpenAI's.
        api_key: the key, by default the environment's OPENAI_API_KEY; your own server may need
            none.
        max_concurrency: maximum number of concurrent requests.
        timeout: seconds until a request counts as failed.
        retries: maximum number of retries after a timeout, a lost connection, or HTTP 408, 429 or
            5xx.
        backoff: seconds before the first retry, doubled for each further one, plus a random part
            of at most as many seconds. A longer Retry-After of the server is respected, up to two
            minutes.
        temperature: the sampling temperature; None sends none, which some models require.

    Raises:
        InputError: a value is invalid.
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
        """Reject invalid values before anything is sent."""
        if not self.model:
            raise InputError("model is empty, expected the name of a model at the endpoint")
        for name, least in (("max_concurrency", 1), ("retries", 0)):
            number: object = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, Integral) or number < least:
                raise InputError(f"{name} is {number!r}, expected a whole number from {least} on")
        if not 0 < self.timeout < math.inf:
            raise InputError(f"timeout is {self.timeout}, expected seconds above 0")
        if not 0 <= self.backoff < math.inf:
            raise InputError(f"backoff is {self.backoff}, expected 0 seconds or more")
        if self.temperature is not None and not 0 <= self.temperature < math.inf:
            raise InputError(
                f"temperature is {self.temperature}, expected 0 or above, or None to send none"
            )

    @property
    def url(self) -> str:
        """The base URL of requests.

        Raises:
            InputError: the URL does not start with http:// or https://.
        """
        url = (self.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI).rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise InputError(f"base_url is {url!r}, expected it to start with http:// or https://")
        return url

    @property
    def secret(self) -> str:
        """The API key of requests.

        Raises:
            JudgeError: OpenAI's endpoint needs a key, and none is given.
        """
        secret = self.api_key or os.environ.get("OPENAI_API_KEY")
        if not secret and self.url == _OPENAI:
            raise JudgeError(
                "OpenAI's endpoint needs a key: give api_key, set OPENAI_API_KEY, or give the "
                "base_url of your own server"
            )
        return secret or _NO_KEY_NEEDED
