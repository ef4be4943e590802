"""Read prompts from files, from standard input, from a data set, or from a table in memory."""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

from cna_lens.errors import InputError

Prompts = list[str | list[dict[str, str]]]

STANDARD_INPUT: Final = "-"
FORMATS: Final = ".txt, .jsonl, .json, .csv, .tsv or .parquet"
SEPARATORS: Final[Mapping[str, str]] = {".csv": ",", ".tsv": "\t"}
ONLY_COLUMNS: Final = (
    *("prompt", "messages", "text", "question", "instruction", "request", "query", "input"),
    *("goal", "behavior", "behaviour", "content"),
)
"""Names by which the only column of a .csv or .tsv file is known to be a header and no prompt."""


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
    separator: str | None = None,
) -> Prompts:
    r"""Read prompts from a file, standard input, a data set, or a table in memory.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "requests.tsv"
    >>> _ = path.write_text("id\tprompt\n1\tWhat is rain?\n2\tWhat is snow?\n")
    >>> read_prompts(path)
    ['What is rain?', 'What is snow?']
    >>> import pandas as pd
    >>> table = pd.DataFrame({"Goal": ["What is hail?"], "Category": ["weather"]})
    >>> read_prompts(table, column="Goal")
    ['What is hail?']

    Nothing is guessed that could be guessed wrong: a file with one column needs a header that says
    so, a quotation mark that is never closed is an error, and so is a row that is longer than the
    header, or whose prompt is empty. Blank lines are left out of text with one prompt a line.

    Args:
        source: a .txt file with one prompt a line; a .jsonl file of strings or objects; a .json
            file with a list of them; a .csv, .tsv or .parquet file; "-" for standard input, one
            prompt a line; the name or folder of a data set, read with `datasets`; a data frame or
            series of pandas; a `Dataset` or `DatasetDict`; or any rows or prompts.
        column: the column or key that holds the prompt; by default "prompt", then "messages" (a
            list of chat messages), then the only column, of the first row that has columns. The
            only column of a .csv or .tsv file must have a usual name, such as "text" or "question":
            any other could be a prompt.
        config: the configuration of a data set that is given by its name.
        split: the split of a data set.
        separator: the character between the columns of a .csv or .tsv file; a comma or a tab by
            default.

    Raises:
        InputError: the file does not exist, does not match its file extension, holds no prompts,
            holds an empty one, or has no such column, or two of one name; or an argument does not
            fit the source.
    """
    if not isinstance(source, str | Path):
        if separator is not None:
            raise InputError(f"separator is {separator!r}, but a table in memory has none")
        return _prompts(_rows(source, config, split), column, f"the {type(source).__name__}")
    name = "standard input" if source == STANDARD_INPUT else str(source)
    path = Path(source)
    ending = ".txt" if source == STANDARD_INPUT else path.suffix.lower()
    _check_arguments(name, ending, column=column, config=config, split=split, separator=separator)
    if source == STANDARD_INPUT:
        rows = _lines(_standard_input())
    elif ending in _READERS or ending in SEPARATORS:
        rows = _file_rows(path, ending, column, separator)
    else:
        rows = _read_data_set(str(source), config, split)
    return _prompts(rows, column, name)


def _prompts(rows: Iterable[object], column: str | None, name: str) -> Prompts:
    prompts: Prompts = []
    chosen = column
    for number, row in enumerate(rows, start=1):
        if isinstance(row, Mapping):
            fields = cast("Mapping[str, Any]", row)
            # One column for all rows: what stands in another may be no prompt.
            chosen = chosen or _default_column(fields)
            prompt = _field(fields, chosen, name)
            if column is None and chosen == "messages" and isinstance(prompt, str):
                raise InputError(
                    f"{name} holds text under 'messages', expected lists of chat messages, which "
                    "a .jsonl or .parquet file can hold; if the text is a prompt, pass 'messages' "
                    "as column (`?column=` on the command line)"
                )
        else:
            prompt = _without_columns(row, column, name)
        if _is_blank(prompt):
            raise InputError(
                f"{name} has an empty prompt in row {number}; fill it in, or take the row out"
            )
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{name} holds no prompts")
    return prompts


def csv_rows(text: str, name: str, separator: str = ",") -> list[dict[str, str]]:
    r"""Read the rows of a table with a header, each as long as the header.

    >>> csv_rows("id,prompt\n1,What is rain?\n", "requests.csv")
    [{'id': '1', 'prompt': 'What is rain?'}]

    Args:
        text: the content of the file.
        name: what an error calls the file.
        separator: the character between columns.

    Raises:
        InputError: a quotation mark is not closed, the header names a column twice, a row is not as
            long as the header, or the columns are separated by another character.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        # A blank line is no row; a row of one empty cell is written with quotes.
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise InputError(
            f"{name}, line {reader.line_num}, cannot be read as CSV: {error}"
        ) from error
    if not rows:
        return []
    (_, header), *rows = rows
    header = [field.strip() for field in header]
    _check_columns(header, name)
    if len(header) == 1 and (others := [s for s in ";\t,|" if s != separator and s in header[0]]):
        raise InputError(
            f"{name} has the header {header[0]!r}, whose columns seem to be separated by "
            f"{others[0]!r} and not by {separator!r}; pass separator={others[0]!r} "
            f"(`?separator=` on the command line), or save the file with {separator!r}"
        )
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{name}, line {line}, has {len(row)} fields and the header {len(header)}; give "
                f"each row as many, and put text that holds {separator!r} in quotes"
            )
    return [dict(zip(header, row, strict=True)) for _, row in rows]


def _check_columns(header: Iterable[object], name: str) -> None:
    if doubled := [field for field, times in Counter(header).items() if times > 1]:
        raise InputError(f"{name} has more than one column {doubled[0]!r}; rename all but one")


def _check_arguments(name: str, ending: str, **given: str | None) -> None:
    takes = {"column", "config", "split"}
    if ending in SEPARATORS:
        takes = {"column", "separator"}
    elif ending in _READERS:
        takes = set[str]() if ending == ".txt" else {"column"}
    for argument, value in given.items():
        if value is not None and argument not in takes:
            raise InputError(
                f"{argument} is {value!r}, but {name} has none; leave it out, or give a file or "
                "data set that has"
            )
    separator = given["separator"]
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise InputError(f"separator is {separator!r}, expected one character, such as ';'")


def _file_rows(
    path: Path, ending: str, column: str | None, separator: str | None
) -> Iterable[object]:
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        if ending in _READERS:
            return _READERS[ending](path)
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read as {ending}: {error}") from error
    rows = csv_rows(text, str(path), separator or SEPARATORS[ending])
    if rows and column is None and len(rows[0]) == 1:
        (only,) = rows[0]
        if only.lower() not in ONLY_COLUMNS:
            raise InputError(
                f"{path} has a single column, and its first line is {only!r}: a header, or the "
                "first prompt? Put the line 'prompt' before it, or pass the header as column "
                "(`?column=` on the command line)"
            )
    return rows


def _standard_input() -> str:
    """Read standard input as files are read; what stands in for it may be text already."""
    if not hasattr(sys.stdin, "buffer"):
        return sys.stdin.read()
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input cannot be read as UTF-8: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lines(text: str) -> list[object]:
    # `splitlines` would also split at separators within a prompt, such as U+2028.
    return [line.strip() for line in text.split("\n") if line.strip()]


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
        _check_columns(source.columns, f"the {type(source).__name__}")
        return source.to_dict("records")
    return source


def _read_lines(path: Path) -> list[object]:
    return _lines(path.read_text(encoding="utf-8-sig"))


def _read_json_lines(path: Path) -> list[object]:
    rows: list[object] = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}, line {number}, is not JSON: {error}") from error
    return rows


def _read_json(path: Path) -> list[object]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise InputError(
            f"{path} holds one {type(rows).__name__}, expected a list of strings or objects; name "
            "the file .jsonl if each line is a value"
        )
    return cast("list[object]", rows)


def _read_parquet(path: Path) -> list[object]:
    import pyarrow.lib
    import pyarrow.parquet

    try:
        return cast("list[object]", pyarrow.parquet.read_table(path).to_pylist())
    except (OSError, pyarrow.lib.ArrowException) as error:
        raise InputError(f"{path} cannot be read as .parquet: {error}") from error


_READERS: Final[Mapping[str, Callable[[Path], list[object]]]] = {
    ".txt": _read_lines,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _read_data_set(source: str, config: str | None, split: str | None) -> list[object]:
    import datasets

    try:
        with cache_for(source) as cache:
            loaded = datasets.load_dataset(source, config, split=split, cache_dir=cache)
            if isinstance(loaded, datasets.Dataset):
                return list(cast("Iterable[object]", loaded))
    except Exception as error:
        raise InputError(
            f"{source} is no {FORMATS} file, and cannot be loaded as a data set: {error}"
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


def _without_columns(row: object, column: str | None, source: str) -> Any:
    if not isinstance(row, str) and not (row and _is_messages(row)):
        raise InputError(f"{source} holds {row!r}, expected strings or objects")
    if column is not None:
        raise InputError(
            f"column is {column!r}, but {source} holds prompts without columns; leave it out"
        )
    return row


def _field(fields: Mapping[str, Any], name: str | None, source: str) -> Any:
    if name is None or name not in fields:
        raise InputError(
            f"{source} has no column {name or 'prompt'!r}; it has: {', '.join(map(str, fields))}"
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


def _is_blank(prompt: str | list[dict[str, str]]) -> bool:
    return not (prompt.strip() if isinstance(prompt, str) else prompt)


def _is_messages(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, Mapping) for item in cast("list[object]", value)
    )


def _default_column(fields: Mapping[str, Any]) -> str | None:
    for name in ("prompt", "messages"):
        if name in fields:
            return name
    return next(iter(fields)) if len(fields) == 1 else None
