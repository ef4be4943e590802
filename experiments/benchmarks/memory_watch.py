"""How much memory this process takes while something runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil

MIB = 2**20


def growth_mib(run: Callable[[], object]) -> float:
    """The highest resident memory while it runs, sampled every 2 ms, less what there was before."""
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
