"""A file of JSON lines from which interrupted work continues."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cna_lens.errors import InputError
from cna_lens.results.files import json_text, numbers_restored


class Journal(Mapping[str, dict[str, Any]]):
    """Records by key; each is one line, which is on the disk when `add` returns.

    The first line names what all records depend on, such as model, prompts and settings, so that
    records of different work never mix in one file. Lines are only appended. Whatever ends the
    process, at most the last line is incomplete: it is cut off when the file is opened again, and
    its work is repeated. Infinite numbers are written as strings, and are numbers again when read.

    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "sums.jsonl"
    >>> Journal(path, "calculation", {"base": 10}).add("1 + 1", {"sum": 2})
    >>> Journal(path, "calculation", {"base": 10})["1 + 1"]
    {'sum': 2}

    Only one process may add records at a time; a file that several processes might open needs a
    lock.
    """

    def __init__(self, path: Path | None, kind: str, depends_on: Mapping[str, Any]) -> None:
        """Read the records of a file, or start a new file.

        Args:
            path: the file; None keeps the records in memory only.
            kind: the name of the work, such as "comparison".
            depends_on: plain data on which every record depends.

        Raises:
            InputError: the file holds other work of this kind, or is not a file of this kind.
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
        """Add a record; it is on the disk when this returns.

        A text that is "NaN", "Infinity" or "-Infinity" is read again as that number.

        Raises:
            InputError: the record has an entry "key", which is the journal's own.
        """
        if "key" in record:
            raise InputError(
                f'a record has an entry "key", {record["key"]!r}, which is the journal\'s own; '
                "rename it"
            )
        self._found[key] = dict(record)
        if self._path is not None:
            _append(self._path, _line({"key": key, **record}))

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The record of a key; KeyError if there is none yet."""
        return self._found[key]

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order in which they were added."""
        return iter(self._found)

    def __len__(self) -> int:
        """Number of records."""
        return len(self._found)


def read_journal(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Read what a journal's records depend on, and its complete records; leave the file unchanged.

    Raises:
        InputError: the file is not a journal of this kind.
    """
    first, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    depends_on = _header(path, kind, first)
    finished = lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
    return depends_on, dict(
        _entry(path, kind, number, line) for number, line in enumerate(finished, start=2)
    )


def _line(record: Mapping[str, Any]) -> bytes:
    return json_text(record).encode() + b"\n"


def _append(path: Path, line: bytes) -> None:
    with path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _entry(path: Path, kind: str, number: int, line: bytes) -> tuple[str, dict[str, Any]]:
    try:
        record: dict[str, Any] = json.loads(line)
        return record.pop("key"), numbers_restored(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"line {number} of {path} is not a record of a {kind}: something else wrote to the "
            "file; delete the line, or give another path"
        ) from error


def _header(path: Path, kind: str, header: bytes) -> dict[str, Any]:
    try:
        return json.loads(header)[kind]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a file of a {kind}; give another path") from error


def _check_header(path: Path, kind: str, header: bytes, expected: bytes) -> None:
    found = _header(path, kind, header)
    ours = json.loads(expected)[kind]
    for name in {**ours, **found}:
        if found.get(name) != ours.get(name):
            raise InputError(
                f"{path} holds a {kind} with {name} {found.get(name)!r}, this one has "
                f"{ours.get(name)!r}; give another path, or delete that file"
            )
