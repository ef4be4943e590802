"""The memory that this process takes while a function runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil

MIB = 2**20


def growth_mib(run: Callable[[], object]) -> float:
    """The growth of resident memory to its highest value during a run, sampled every 2 ms."""
    process = psutil.Process()
    before = highest = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return (highest - before) / MIB
