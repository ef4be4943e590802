"""Requests that arrive one at a time, answered in batches."""
# Inspect, which the event loop belongs to, comes with the extra `inspect`.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

Request = TypeVar("Request")
Result = TypeVar("Result")

GATHERING = 0.02
"""Seconds for which the first request waits for others that are sent at the same time."""


@dataclass(eq=False)
class _Waiting(Generic[Request, Result]):
    request: Request
    results: Sequence[Result] = ()
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.results) or self.error is not None


class Batches(Generic[Request, Result]):
    """Runs waiting requests together, in a thread; while a batch runs, the next one gathers."""

    def __init__(self, run: Callable[[list[Request]], Sequence[Result]], at_most: int) -> None:
        """Take the function that answers a batch, and the largest size of one."""
        self._run = run
        self._at_most = at_most
        self._waiting: list[_Waiting[Request, Result]] = []
        self._turn = anyio.Lock()

    async def __call__(self, request: Request) -> Result:
        """Return the answer to a request; what its batch raised is raised for each request."""
        mine = _Waiting[Request, Result](request)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if not mine.is_done:
                    await anyio.sleep(GATHERING)
                while not mine.is_done:
                    await self._run_one()
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.results[0]

    async def _run_one(self) -> None:
        batch = self._waiting[: self._at_most]
        # A request whose sample is cancelled meanwhile leaves the others in the list.
        requests = [each.request for each in batch]
        try:
            results = await anyio.to_thread.run_sync(self._run, requests)
        except Exception as error:
            for each in batch:
                each.error = error
        else:
            for each, result in zip(batch, results, strict=True):
                each.results = (result,)
        self._waiting = [each for each in self._waiting if not each.is_done]
