"""Read prompts from a text, JSON lines or CSV file, from a data set, or from a table in memory."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from cna_lens.errors import InputError

Prompts = list[str | list[dict[str, str]]]


@runtime_checkable
class Frame(Protocol):
    """A table with named columns: a data frame of pandas."""

    columns: Any

    def to_dict(self, orient: Any) -> Any:
        """The rows, for `orient="records"`."""
        ...


def read_prompts(
    source: str | Path | Frame | Iterable[object],
    *,
    column: str | None = None,
    config: str | None = None,
    split: str | None = None,
) -> Prompts:
    """Read prompts from a text, JSON lines or CSV file, from a data set, or from a table in memory.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"Goal": ["How do I boil an egg?"], "Category": ["food"]})
    >>> read_prompts(table, column="Goal")
    ['How do I boil an egg?']

    Args:
        source: a .txt file with one prompt a line; a .jsonl file of strings or objects; a .csv
            file with a header; the name or folder of a data set, read with `datasets`; a data
            frame or series of pandas; a `Dataset` or `DatasetDict`; or any rows or prompts.
        column: the column or key that holds the prompt; by default "prompt", then "messages" (a
            list of chat messages), then the only column.
        config: the configuration of a data set that is given by its name.
        split: the split of a data set.

    Raises:
        InputError: the file does not exist, does not match its file extension, holds no prompts,
            or has no such column.
    """
    if not isinstance(source, str | Path):
        return _prompts(_rows(source, config, split), column, f"the {type(source).__name__}")
    path = Path(source)
    readers = {".txt": _read_lines, ".jsonl": _read_json_lines, ".csv": _read_csv}
    if path.suffix.lower() in readers:
        if not path.is_file():
            raise InputError(f"{path} does not exist")
        try:
            rows = readers[path.suffix.lower()](path)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path} cannot be read as {path.suffix}: {error}") from error
    else:
        rows = _read_data_set(str(source), config, split)
    return _prompts(rows, column, str(source))


def _prompts(rows: Iterable[object], column: str | None, source: str) -> Prompts:
    prompts = [_prompt(row, column, source) for row in rows]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise InputError(f"{source} holds no prompts")
    return prompts


def _rows(
    source: Frame | Iterable[object], config: str | None, split: str | None
) -> Iterable[object]:
    """The rows of a table in memory, or the values of one of its columns."""
    if config is not None:
        raise InputError(f"config is {config!r}, but only a data set's name has configurations")
    if isinstance(source, Mapping):
        splits = cast("Mapping[str, Iterable[object]]", source)
        if split is None or split not in splits:
            raise InputError(
                f"split is {split!r}, and the {type(source).__name__} has the splits "
                f"{', '.join(map(str, splits))}; pass one of them"
            )
        return splits[split]
    if split is not None:
        raise InputError(f"split is {split!r}, but a {type(source).__name__} has no splits")
    if isinstance(source, Frame):
        return source.to_dict("records")
    return source


def _read_lines(path: Path) -> list[object]:
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]


def _read_json_lines(path: Path) -> list[object]:
    rows: list[object] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number}, is not JSON: {error}") from error
    return rows


def _read_csv(path: Path) -> list[object]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _read_data_set(source: str, config: str | None, split: str | None) -> list[object]:
    import datasets

    try:
        with cache_for(source) as cache:
            loaded = datasets.load_dataset(source, config, split=split, cache_dir=cache)
            if isinstance(loaded, datasets.Dataset):
                return list(cast("Iterable[object]", loaded))
    except Exception as error:
        raise InputError(
            f"{source} is not a .txt, .jsonl or .csv file, and cannot be loaded as a data set: "
            f"{error}"
        ) from error
    raise InputError(f"{source} has the splits {', '.join(map(str, loaded))}; pass one of them")


@contextmanager
def cache_for(source: str | Path) -> Generator[str | None]:
    """Give the cache folder for reading a data set; None stands for the default of `datasets`.

    A folder gets a temporary cache, which is deleted with the context. The default cache knows a
    folder by its last name alone, and would give the rows of another folder of that name.
    """
    if not Path(source).is_dir():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="cna-lens-data-set-") as folder:
        yield folder


def _prompt(row: object, column: str | None, source: str) -> Any:
    if isinstance(row, str) or (row and _is_messages(row)):
        return row
    if not isinstance(row, Mapping):
        raise InputError(f"{source} holds {row!r}, expected strings or objects")
    fields = cast("Mapping[str, Any]", row)
    name = column or _only_column(fields)
    if None in fields:
        raise InputError(
            f"{source} has a row with more fields than its header; put text with commas in quotes"
        )
    if name is None or name not in fields:
        wanted = column or "prompt"
        raise InputError(
            f"{source} has no column {wanted!r}; it has: {', '.join(map(str, fields))}"
        )
    prompt = fields[name]
    # pandas reads a column of lists from Parquet as arrays.
    if not isinstance(prompt, str) and hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    if not isinstance(prompt, str) and not _is_messages(prompt):
        raise InputError(
            f"{source} holds {prompt!r} under {name!r}, expected text or a list of chat messages"
        )
    return prompt


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, Mapping) for item in cast("list[object]", value)
    )


def _only_column(fields: Mapping[str, Any]) -> str | None:
    for name in ("prompt", "messages"):
        if name in fields:
            return name
    return next(iter(fields)) if len(fields) == 1 else None
