"""The free memory of this machine, or of the container in which the process runs."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Give the bytes that processes can still take, pages of files that can be dropped included.

    In a container with a limit (version 2 of Linux's control groups) at most what the limit leaves.
    """
    free = psutil.virtual_memory().available
    try:
        limit = int((CGROUP / "memory.max").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
        taken = next(int(line.split()[1]) for line in lines if line.startswith("anon "))
    # There is no limit, or no such control group.
    except (OSError, ValueError, StopIteration):
        return free
    return max(0, min(free, limit - taken))
