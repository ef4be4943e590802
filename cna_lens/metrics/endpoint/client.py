"""Send conversations to an OpenAI-compatible endpoint concurrently, and retry failed requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import mktime_tz, parsedate_tz
from typing import Any, TypeVar

from cna_lens.errors import InputError, JudgeError
from cna_lens.metrics.endpoint.replies import Missing, load_json
from cna_lens.metrics.endpoint.settings import Endpoint

Messages = list[dict[str, str]]
Result = TypeVar("Result")

_NO_CONNECTION = "no connection"
_ASKED_AGAIN_IF_UNPARSABLE = 1
_LONGEST_WAIT = 120.0

BUDGET_SPENT = "budget spent"
"""Why a conversation has no result where a `Budget` left no request or no time for it."""


@dataclass
class Usage:
    """Requests to an endpoint and the tokens they used.

    Attributes:
        calls: requests made, retries included.
        tokens_in: tokens that the model read, according to its replies.
        tokens_out: tokens that it wrote.
        uncounted: replies without a token count.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0


@dataclass(frozen=True)
class Budget:
    """How much asking an endpoint may cost.

    >>> Budget(max_requests=50)
    Budget(max_requests=50, max_seconds=None)

    Attributes:
        max_requests: the largest number of requests, retries included; None sets no limit.
        max_seconds: after so many seconds no request is sent, and none is waited for; None sets no
            limit.

    Raises:
        InputError: a limit is not above 0.
    """

    max_requests: int | None = None
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        """Reject limits that leave nothing."""
        if self.max_requests is not None and self.max_requests < 1:
            raise InputError(f"max_requests is {self.max_requests}, expected at least 1")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(f"max_seconds is {self.max_seconds}, expected seconds above 0")


@dataclass(frozen=True)
class Completion:
    """A reply of an endpoint.

    Attributes:
        text: the text of the reply.
        is_cut_off: whether the reply reached the maximum length.
        tokens: numbers of tokens read and written, None if the endpoint does not count them.
        log_probs: the log-probability of each token, in nats, where they were asked for and given.
    """

    text: str
    is_cut_off: bool
    tokens: tuple[int, int] | None
    log_probs: tuple[float, ...] | None = None


def complete_all(
    endpoint: Endpoint,
    conversations: Mapping[str, Messages],
    read: Callable[[Completion], Result | Missing],
    done: Callable[[str, Result | Missing], None],
    max_tokens: int | None = None,
    budget: Budget | None = None,
    *,
    log_probs: bool = False,
    top_p: float | None = None,
) -> Usage:
    """Request a reply to each conversation, at most `max_concurrency` at once.

    Args:
        endpoint: the model, and how to ask it.
        conversations: messages by key.
        read: converts a reply to a result. If it returns Missing, the request is made once more.
        done: called with each key and its result, as soon as the result is known.
        max_tokens: maximum length of a reply; None leaves it to the endpoint.
        budget: the largest number of requests and seconds; a conversation beyond it is
            Missing(BUDGET_SPENT).
        log_probs: ask for the log-probability of each token of a reply.
        top_p: sample from the fewest tokens that have this probability together; None leaves it to
            the endpoint.

    Raises:
        JudgeError: a package or the key is missing, nothing listens at the address, or the
            endpoint refuses every request.
    """
    openai, tenacity = _packages()
    secret = endpoint.secret
    usage = Usage()
    budget = budget or Budget()
    optional = {
        "temperature": endpoint.temperature,
        "max_tokens": max_tokens,
        "top_p": top_p,
    }
    settings: dict[str, Any] = {
        name: value for name, value in optional.items() if value is not None
    }
    if log_probs:
        settings["logprobs"] = True

    async def ask() -> None:
        async with openai.AsyncOpenAI(
            base_url=endpoint.url, api_key=secret, max_retries=0, timeout=None
        ) as client:
            requests = _Requests(endpoint, client, usage, settings, openai, tenacity, budget)
            left = iter(conversations.items())
            clock, limit = asyncio.get_running_loop().time, budget.max_seconds
            deadline = None if limit is None else clock() + limit

            async def work() -> None:
                for key, messages in left:
                    result: Result | Missing = Missing(BUDGET_SPENT)
                    # A timeout that has passed ends a request only once it is counted.
                    if deadline is None or clock() < deadline:
                        with suppress(TimeoutError):
                            async with asyncio.timeout_at(deadline):
                                result = await requests.result(messages, read)
                    done(key, result)

            async with asyncio.TaskGroup() as workers:
                for _ in range(min(endpoint.max_concurrency, len(conversations))):
                    workers.create_task(work())

    with _requests_unlogged():
        failed = None
        try:
            _run_apart(ask())
        except BaseExceptionGroup as group:
            failed = group.exceptions[0]
        if failed is not None:
            raise failed
    return usage


def check_endpoint(endpoint: Endpoint) -> None:
    """Check an endpoint without a request.

    Raises:
        InputError: the URL does not start with http:// or https://.
        JudgeError: a package or the key is missing.
    """
    _packages()
    _ = endpoint.secret, endpoint.url


class _FailedError(Exception):
    """A failed request; the reason holds no text that was sent or received."""

    def __init__(self, reason: str, *, again: bool, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.retry_after = retry_after


@dataclass
class _Requests:
    """The requests of one call of `complete_all`."""

    endpoint: Endpoint
    client: Any
    usage: Usage
    settings: Mapping[str, Any]
    openai: Any
    tenacity: Any
    budget: Budget
    reached: bool = False

    async def result(
        self, messages: Messages, read: Callable[[Completion], Result | Missing]
    ) -> Result | Missing:
        result: Result | Missing = Missing("not asked")
        for _ in range(1 + _ASKED_AGAIN_IF_UNPARSABLE):
            try:
                # Concurrent requests must not share the state of an AsyncRetrying.
                body = await self._retrying()(self._request, messages)
            except _FailedError as error:
                if error.reason == _NO_CONNECTION and not self.reached:
                    raise JudgeError(
                        f"nothing listens at {self.endpoint.url}; start the server, or give its "
                        "base_url"
                    ) from None
                return Missing(error.reason)
            reply = self._reply(body)
            result = reply if isinstance(reply, Missing) else read(reply)
            if not isinstance(result, Missing):
                break
        return result

    # The client's own retries fit neither `backoff` (its delays are constants), nor `timeout` (a
    # total for each attempt), nor `calls` (which counts attempts).
    def _retrying(self) -> Any:
        tenacity, backoff = self.tenacity, self.endpoint.backoff
        wait = tenacity.wait_exponential(multiplier=backoff, max=_LONGEST_WAIT)
        wait += tenacity.wait_random(0, backoff)
        return tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, _FailedError) and error.again
            ),
            wait=lambda state: max(wait(state), state.outcome.exception().retry_after),
            stop=tenacity.stop_after_attempt(1 + self.endpoint.retries),
            reraise=True,
        )

    async def _request(self, messages: Messages) -> bytes:
        openai = self.openai
        if self.usage.calls == self.budget.max_requests:
            raise _FailedError(BUDGET_SPENT, again=False)
        self.usage.calls += 1
        # Raised after the try statement: the caught error may quote a reply and must not become
        # the context of this one.
        try:
            # The client's own timeout restarts with each piece of a reply.
            async with asyncio.timeout(self.endpoint.timeout):
                reply = await self.client.chat.completions.with_raw_response.create(
                    model=self.endpoint.model, messages=messages, **self.settings
                )
            self.reached = True
            return reply.http_response.content
        except TimeoutError:
            failure = _FailedError("timed out", again=True)
        except openai.APIStatusError as error:
            self.reached = True
            failure = self._refused(error.status_code, error.response.headers.get("retry-after"))
        except openai.APIConnectionError as error:
            # openai uses httpx or httpx2, whose classes share only their names.
            refused = type(error.__cause__).__name__ == "ConnectError"
            reason = _NO_CONNECTION if refused else "the connection broke"
            failure = _FailedError(reason, again=True)
        raise failure

    def _refused(self, status: int, retry_after: str | None) -> Exception:
        url = self.endpoint.url
        if status in (408, 429) or status >= 500:
            return _FailedError(f"HTTP {status}", again=True, retry_after=_seconds(retry_after))
        if status in (400, 413, 422):
            # The error concerns this request only, such as a text too long for the model.
            return _FailedError(f"HTTP {status}", again=False)
        if status in (401, 403):
            return JudgeError(
                f"{url} refuses the key (HTTP {status}); give api_key or set OPENAI_API_KEY to one "
                f"that may use {self.endpoint.model!r}"
            )
        if status == 404:
            return JudgeError(
                f"{url} has no chat completions of {self.endpoint.model!r} (HTTP 404); check "
                "model, and base_url, which usually ends in /v1"
            )
        return JudgeError(
            f"{url} refuses requests (HTTP {status}); check base_url, api_key and model, and what "
            "the account may use"
        )

    def _reply(self, body: bytes) -> Completion | Missing:
        reply = load_json(body)
        tokens = None
        match reply:
            case {"usage": {"prompt_tokens": int(read), "completion_tokens": int(written)}}:
                tokens = (read, written)
                self.usage.tokens_in += read
                self.usage.tokens_out += written
            case _:
                self.usage.uncounted += 1
        match reply:
            case {"choices": [{"finish_reason": "content_filter"}, *_]}:
                return Missing("reply cut off: content filter")
            case {"choices": [{"message": {"content": str(text)}} as choice, *_]}:
                is_cut_off = choice.get("finish_reason") == "length"
                return Completion(text, is_cut_off, tokens, _log_probs(choice))
            case {"choices": [{"finish_reason": "length"}, *_]}:
                return Completion("", True, tokens)
            case {"choices": []}:
                return Missing("reply without choices")
            case _:
                return Missing("reply is no chat completion")


def _log_probs(choice: Mapping[str, Any]) -> tuple[float, ...] | None:
    match choice:
        case {"logprobs": {"content": [*content]}}:
            found = [each.get("logprob") for each in content if isinstance(each, dict)]
            numbers = [float(each) for each in found if isinstance(each, int | float)]
            return tuple(numbers) if len(numbers) == len(content) else None
        case _:
            return None


def _packages() -> tuple[Any, Any]:
    try:
        import openai
        import tenacity
    except ImportError:
        raise JudgeError(
            "asking an endpoint needs the packages openai and tenacity: "
            "pip install 'cna-lens[judge]'"
        ) from None
    return openai, tenacity


def _seconds(retry_after: str | None) -> float:
    """Seconds to wait by a Retry-After header, a number or a date; 0 if it is invalid."""
    seconds = 0.0
    try:
        seconds = float(retry_after or 0)
    except ValueError:
        date = parsedate_tz(retry_after or "")
        with suppress(ValueError, OverflowError):
            seconds = mktime_tz(date) - time.time() if date else 0.0
    return min(max(0.0, seconds), _LONGEST_WAIT)


@contextmanager
def _requests_unlogged() -> Generator[None, None, None]:
    """Suppress openai's DEBUG messages: in older versions they hold whole requests."""

    def above_debug(record: logging.LogRecord) -> bool:
        return record.levelno > logging.DEBUG

    log = logging.getLogger("openai._base_client")
    log.addFilter(above_debug)
    try:
        yield
    finally:
        log.removeFilter(above_debug)


def _run_apart(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in another thread, since a notebook's thread already runs an event loop.

    A KeyboardInterrupt cancels the coroutine and its pending requests.
    """
    started: Future[Callable[[], object]] = Future()

    async def run() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        started.set_result(lambda: loop.call_soon_threadsafe(task.cancel))
        await coroutine

    with ThreadPoolExecutor(1) as thread:
        finished = thread.submit(asyncio.run, run())
        try:
            finished.result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # the loop may just have ended
                started.result()()
            raise
