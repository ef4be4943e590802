"""Where `datasets` keeps what it has read."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cache_for(source: str | Path) -> Generator[str | None]:
    """The cache to read a data set with: for a folder one of its own, which ends with the context.

    The cache that `datasets` has by default knows a folder by its last name alone, and would give
    the rows of another folder of that name. It is None, which stands for that one, where the source
    is a name on the Hub.
    """
    if not Path(source).is_dir():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cna-lens-data-set-") as folder:
        yield folder
