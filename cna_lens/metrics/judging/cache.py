"""Judgements in a file of JSON lines: hashes and numbers only, safe against interruptions."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.replies import load_json
from cna_lens.metrics.judging.rubric import Judgement, judgement_of

_START = b'{"key": "'


# A `Journal` belongs to one piece of work, which its first line describes; a cache serves the
# judgements of any model, rubric and prompt, has no such line, and checks the numbers it reads.
class JudgementCache:
    """Judgements by key, each appended to a file when it is added.

    A line holds a key, three numbers and the token counts. An unfinished last line is cut off.
    """

    def __init__(self, path: str | Path | None) -> None:
        """Read the file, or create it; None keeps nothing.

        Raises:
            InputError: the file holds something other than judgements.
            OSError: the file cannot be written, which shows before any request is made.
        """
        self._path = None if path is None else Path(path)
        self._found: dict[str, Judgement] = {}
        if self._path is not None:
            if self._path.exists():
                self._found = _read(self._path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._append(b"")

    def get(self, key: str) -> Judgement | None:
        """The judgement under a key, None if there is none."""
        return self._found.get(key)

    def add(self, key: str, judgement: Judgement) -> None:
        """Keep a judgement; it is on the disk when this returns."""
        record = {"key": key, **asdict(judgement), "refused": int(judgement.refused)}
        self._append(json.dumps(record).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Judgement]:
    content = path.read_bytes()
    whole, newline, unfinished = content.rpartition(b"\n")
    found: dict[str, Judgement] = {}
    for number, line in enumerate(whole.split(b"\n") if newline else [], start=1):
        entry = _entry(load_json(line))
        if entry is None:
            raise InputError(
                f"line {number} of {path} is no judgement; delete that line, or give another cache"
            )
        found[entry[0]] = entry[1]
    # The file may be another program's, and its only line must not be lost.
    if not _START.startswith(unfinished[: len(_START)]):
        raise InputError(f"the last line of {path} is no judgement; give another cache")
    if unfinished:
        os.truncate(path, len(content) - len(unfinished))
    return found


def _entry(body: Any) -> tuple[str, Judgement] | None:
    match body:
        case {"key": str(key), "tokens": None | [int(), int()] as tokens, **values}:
            judgement = judgement_of(values)
        case _:
            return None
    if not isinstance(judgement, Judgement):
        return None
    return key, judgement if tokens is None else replace(judgement, tokens=tuple(tokens))
