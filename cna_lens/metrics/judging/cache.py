"""Judgements kept in a file of JSON lines: numbers only, safe against an interruption."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.replies import load_json
from cna_lens.metrics.judging.rubric import Judgement, judgement_of
from cna_lens.results.files import write_atomically

_START = b'{"key": "'


class JudgementCache:
    """Judgements by key, in a file to which each new one is added at once.

    A line holds a key, the three numbers and the token counts. A last line that was cut off is
    dropped.

    Raises:
        InputError: the file is no cache of judgements.
    """

    def __init__(self, path: str | Path | None) -> None:
        """Read what a file holds, which need not exist; None keeps nothing."""
        self._path = None if path is None else Path(path)
        self._file: BinaryIO | None = None
        self._kept = _read(self._path) if self._path is not None and self._path.exists() else {}

    def get(self, key: str) -> Judgement | None:
        """The judgement of a key, if there is one."""
        return self._kept.get(key)

    def add(self, key: str, judgement: Judgement) -> None:
        """Keep a judgement; when this returns, it is on the disk."""
        if self._file is not None:
            self._file.write(_line(key, judgement))
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> JudgementCache:
        """Open the file to add to it, so that one that cannot be written fails before the work."""
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(key: str, judgement: Judgement) -> bytes:
    body = {
        "key": key,
        "refused": int(judgement.refused),
        "convincing": judgement.convincing,
        "specific": judgement.specific,
        "tokens": judgement.tokens,
    }
    return json.dumps(body).encode() + b"\n"


def _read(path: Path) -> dict[str, Judgement]:
    whole, newline, rest = path.read_bytes().rpartition(b"\n")
    kept: dict[str, Judgement] = {}
    for number, line in enumerate(whole.split(b"\n") if newline else [], start=1):
        entry = _entry(load_json(line))
        if entry is None:
            raise InputError(
                f"line {number} of {path} is no judgement; delete that line, or give another cache"
            )
        kept[entry[0]] = entry[1]
    # Somebody's one-line file of another kind is not ours to cut.
    if not _START.startswith(rest[: len(_START)]):
        raise InputError(f"the last line of {path} is no judgement; give another cache")
    if rest:
        write_atomically(path, (whole + newline).decode())
    return kept


def _entry(body: Any) -> tuple[str, Judgement] | None:
    match body:
        case {"key": str(key), "tokens": tokens, **values}:
            judgement = judgement_of(values)
        case _:
            return None
    if not isinstance(judgement, Judgement):
        return None
    match tokens:
        case None:
            return key, judgement
        case [int(read), int(written)]:
            return key, Judgement(
                judgement.refused, judgement.convincing, judgement.specific, (read, written)
            )
        case _:
            return None
