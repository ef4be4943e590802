"""A file of JSON lines from which interrupted work goes on, whatever interrupted it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cna_lens.errors import InputError


class Journal(Mapping[str, dict[str, Any]]):
    """Records by key, each a line that is on the disk when `add` returns.

    The first line says what all of them depend on, such as model, prompts and settings, so that
    records of different work never stand in one file. Lines are only appended: whatever ends the
    process, at most the last line is unfinished; it is cut off when the file is opened again, and
    its work is done again.

    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "sums.jsonl"
    >>> Journal(path, "calculation", {"base": 10}).add("1 + 1", {"sum": 2})
    >>> Journal(path, "calculation", {"base": 10})["1 + 1"]
    {'sum': 2}

    One process may add at a time; a file that several might open needs a lock beside it.
    """

    def __init__(self, path: Path | None, kind: str, depends_on: Mapping[str, Any]) -> None:
        """Read what the file holds, or begin one; None keeps nothing.

        Args:
            path: the file.
            kind: what the work is called, such as "comparison".
            depends_on: plain data on which every record depends.

        Raises:
            InputError: the file is of other work of this kind, or is no such file.
        """
        self._path = path
        self._found: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        header = _line({kind: dict(depends_on)})
        content = path.read_bytes() if path.exists() else b""
        if b"\n" not in content and header.startswith(content):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            _append(path, header)
            return
        found_header, *lines = content.splitlines(keepends=True)
        _check_header(path, kind, found_header, header)
        unfinished = b""
        if lines and not lines[-1].endswith(b"\n"):
            unfinished = lines.pop()
        for number, line in enumerate(lines, start=2):
            key, record = _entry(path, kind, number, line)
            self._found[key] = record
        if unfinished:
            os.truncate(path, len(content) - len(unfinished))

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a record; when this returns, it is on the disk."""
        self._found[key] = dict(record)
        if self._path is not None:
            _append(self._path, _line({"key": key, **record}))

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The record of a key; KeyError where it is still to be had."""
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order in which they were added."""
        return iter(self._found)

    def __len__(self) -> int:
        """How many records there are."""
        return len(self._found)


def read_journal(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a journal's records depend on, and the finished ones, without changing the file.

    Raises:
        InputError: the file is no journal of this kind.
    """
    first, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    depends_on = _header(path, kind, first)
    finished = lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
    return depends_on, dict(
        _entry(path, kind, number, line) for number, line in enumerate(finished, start=2)
    )


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode() + b"\n"


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _entry(path: Path, kind: str, number: int, line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        record: dict[str, Any] = json.loads(line)
        return record.pop("key"), record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"line {number} of {path} is no record of a {kind}; something else wrote to that "
            "file. Delete the line, or give another path"
        ) from error


def _header(path: Path, kind: str, header: bytes) -> dict[str, Any]:
    try:
        return json.loads(header)[kind]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no file of a {kind}; give another path for this one"
        ) from error


def _check_header(path: Path, kind: str, header: bytes, expected: bytes) -> None:
    found = _header(path, kind, header)
    for name, value in json.loads(expected)[kind].items():
        if found.get(name) != value:
            raise InputError(
                f"{path} holds a {kind} with {name} {found.get(name)!r}, this one has "
                f"{value!r}; give another path, or delete that file"
            )
