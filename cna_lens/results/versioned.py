"""Versioned JSON files: each names its format and version, which are checked before it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, cast

from cna_lens.errors import CnaLensError
from cna_lens.results.files import write_atomically

T = TypeVar("T")


@dataclass(frozen=True)
class VersionedJson:
    """One format of JSON files; the same record always gives the same bytes.

    Attributes:
        format: the format's name, as it stands in the file.
        version: the version that is written, and the only one that is read.
        kind: what a file holds, for error messages: "circuit".
        error: the error that a bad file raises.
        advice: how to get a new file, for error messages: "find the circuit again".
        checksum: whether a file holds the SHA-256 of the rest of its content.
        indent: spaces of indentation; None writes a single line.
    """

    format: str
    version: int
    kind: str
    error: type[CnaLensError]
    advice: str
    checksum: bool = False
    indent: int | None = 1

    def encode(self, record: Mapping[str, Any]) -> str:
        """The text of a file that holds a record.

        `error` if a number in it is not finite, or if it holds what JSON does not have.
        """
        body = self._body(record)
        try:
            if self.checksum:
                body["sha256"] = _digest(body)
            return (
                json.dumps(
                    body,
                    indent=self.indent,
                    sort_keys=True,
                    allow_nan=False,
                    default=_plain_number,
                )
                + "\n"
            )
        except TypeError as error:
            raise self.error(f"this {self.kind} holds what no file holds: {error}") from error
        except ValueError as error:
            raise self.error(
                f"this {self.kind} holds a number that is infinite or not a number, which no file "
                f"holds; {self.advice}"
            ) from error

    def sha256(self, record: Mapping[str, Any]) -> str:
        """The checksum that stands in a file of this record."""
        return _digest(self._body(record))

    def _body(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"format": self.format, "version": self.version, **record}

    def save(self, path: str | Path, record: Mapping[str, Any]) -> None:
        """Write a record; an existing file is replaced as a whole or not at all."""
        write_atomically(Path(path), self.encode(record))

    def read(self, path: str | Path) -> bytes:
        """The bytes of a file; `error` where it cannot be read."""
        try:
            return Path(path).read_bytes()
        except FileNotFoundError as error:
            raise self.error(f"{path} does not exist") from error
        except OSError as error:
            raise self.error(f"{path} cannot be read: {error.strerror}") from error

    def decode(self, content: bytes, name: str, build: Callable[[dict[str, Any]], T]) -> T:
        """Check the content of a file, and build what it describes.

        Args:
            content: the bytes of the file.
            name: the file's name, for error messages.
            build: makes the result of the record; what it raises is raised as `error`.
        """
        try:
            body = json.loads(content.decode("utf-8"))
        except ValueError as error:
            raise self.error(
                f"{name} is truncated or not JSON ({error}); restore it, or {self.advice}"
            ) from error
        if not isinstance(body, dict):
            raise self.error(f"{name} is not a {self.kind} file: it holds a {type(body).__name__}")
        body = cast("dict[str, Any]", body)
        found, version = body.get("format"), body.get("version")
        if found != self.format:
            raise self.error(
                f"{name} is not a {self.kind} file: its format is {found!r}, expected "
                f"{self.format!r}"
            )
        if version != self.version:
            raise self.error(
                f"{name} has version {version!r}, this cna_lens reads version {self.version}; "
                f"update cna_lens, or {self.advice}"
            )
        if self.checksum and body.pop("sha256", None) != _digest(body):
            raise self.error(
                f"{name} was altered after it was written: its checksum does not match; restore "
                f"it, or {self.advice}"
            )
        try:
            return build(body)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = error if isinstance(error, CnaLensError) else repr(error)
            raise self.error(
                f"{name} does not describe a {self.kind}: {reason}; restore it, or {self.advice}"
            ) from error

    def load(self, path: str | Path, build: Callable[[dict[str, Any]], T]) -> T:
        """Read a file, and build what it describes; see `decode`."""
        return self.decode(self.read(path), str(path), build)


def _plain_number(value: object) -> int | float:
    """A number of NumPy as Python's own."""
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"{value!r} is no text, number, list or dict")


def _digest(body: Mapping[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), default=_plain_number)
    return hashlib.sha256(canonical.encode()).hexdigest()
