"""Another process that can be killed."""

import contextlib
import os
import signal
import threading
import warnings

from tqdm import std
from tqdm.auto import tqdm


@contextlib.contextmanager
def child(work):
    """Run the work in another process, which is killed at the end of the context."""
    with warnings.catch_warnings():
        # Python 3.12 warns if a process with threads forks; the child does not use them.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if not process:
        # Processes share tqdm's lock, and a process that is killed may hold it.
        for bar in (tqdm, std.tqdm):
            bar.set_lock(threading.RLock())
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
