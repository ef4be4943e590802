"""The memory that this process takes while a function runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil

MIB = 2**20


def growth_mib(run: Callable[[], object], *, mapped: bool = True) -> float:
    """The growth of resident memory to its highest value during a run.

    It is sampled every 2 ms, and once more while what the function returns is still held. Memory
    that the process freed and kept may be used again, which is no growth: call it in a new process.

    Args:
        run: the function.
        mapped: count pages of files that are mapped, such as weights; without them on Linux only.
    """
    process = psutil.Process()

    def resident() -> int:
        taken = process.memory_info()
        return taken.rss if mapped else taken.rss - taken.shared

    before = highest = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        # The name keeps the result's memory until the last sample.
        result = run()
        last = resident()
        del result
    finally:
        done.set()
        watcher.join()
    return (max(highest, last) - before) / MIB
