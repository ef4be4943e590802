"""The cost of a step: wall-clock seconds, and processor seconds of this process alone."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Cost:
    """The cost of a step; `cost` fills it in when its context ends.

    Attributes:
        seconds: by the clock.
        cpu_seconds: of all threads together; other work on the machine hardly counts.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)


@contextmanager
def cost() -> Generator[Cost]:
    """Measure the cost of the context."""
    found = Cost()
    clock, processor = time.perf_counter(), time.process_time()
    yield found
    found.seconds = time.perf_counter() - clock
    found.cpu_seconds = time.process_time() - processor
