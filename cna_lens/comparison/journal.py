"""A file of JSON lines from which an interrupted comparison goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cna_lens.comparison.table import Outcome
from cna_lens.errors import InputError


class Journal:
    """Outcomes as they come, each under a key that says what it depends on.

    The first line says what all of them depend on: model, prompts, settings. A line that an
    interrupt left unfinished is written again.
    """

    def __init__(self, path: Path | None, depends_on: Mapping[str, Any]) -> None:
        """Read what the file holds, or begin one; None keeps nothing.

        Raises:
            InputError: the file is of a comparison of something else, or is no such file.
        """
        self._path = path
        self._found: dict[str, Outcome] = {}
        if path is None:
            return
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"comparison": dict(depends_on)})
            return
        header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        _check_header(path, header, depends_on)
        whole = [line for line in lines if line.endswith("\n")]
        for line in whole:
            record = json.loads(line)
            key = record.pop("key")
            self._found[key] = Outcome.from_record(record)
        if len(whole) < len(lines):
            path.write_text("".join([header, *whole]), encoding="utf-8")

    def get(self, key: str) -> Outcome | None:
        """The outcome under a key, None where it is still to be had."""
        return self._found.get(key)

    def add(self, key: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        self._found[key] = outcome
        self._append({"key": key, **outcome.record()})

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record, sort_keys=True) + "\n")


def _check_header(path: Path, header: str, depends_on: Mapping[str, Any]) -> None:
    try:
        found = json.loads(header)["comparison"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no file of a comparison; give another path for this one"
        ) from error
    expected = json.loads(json.dumps(dict(depends_on)))
    for name, value in expected.items():
        if found.get(name) != value:
            raise InputError(
                f"{path} holds a comparison with {name} {found.get(name)!r}, this one has "
                f"{value!r}; give another path, or delete that file"
            )
