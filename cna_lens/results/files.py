"""Files that are replaced as a whole or not at all, their JSON, and their hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

NOT_FINITE: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees either the old content or the new; text is UTF-8.

    A new file has the permissions that the process gives its files (the umask). A file that is
    replaced keeps its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unlike `tempfile`, which lets nobody else read its files, `open` obeys the umask.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            if path.exists():
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(data: Any, *, indent: int | None = None, sort_keys: bool = True) -> str:
    """Plain data as standard JSON, which has no number for infinity; it stands there as a string.

    >>> json_text({"kl": [0.5, math.inf], "log_odds": -math.inf})
    '{"kl": [0.5, "Infinity"], "log_odds": "-Infinity"}'

    Args:
        data: dicts, lists, tuples, strings, numbers, booleans and None.
        indent: spaces of indentation; None writes a single line.
        sort_keys: whether keys are sorted.
    """
    return json.dumps(_named(data), indent=indent, sort_keys=sort_keys, allow_nan=False)


def numbers_restored(data: Any) -> Any:
    """Plain data in which each string that `json_text` wrote for a number is that number again."""
    if isinstance(data, dict):
        return {key: numbers_restored(each) for key, each in cast("dict[Any, Any]", data).items()}
    if isinstance(data, list):
        return [numbers_restored(each) for each in cast("list[Any]", data)]
    return NOT_FINITE.get(data, data) if isinstance(data, str) else data


def _named(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return next(name for name, value in NOT_FINITE.items() if str(value) == str(float(data)))
    if isinstance(data, dict):
        return {key: _named(each) for key, each in cast("dict[Any, Any]", data).items()}
    if isinstance(data, list | tuple):
        return [_named(each) for each in cast("list[Any]", data)]
    return data
