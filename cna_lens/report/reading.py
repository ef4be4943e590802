"""Read files that this package wrote, by their content and not by their name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cna_lens.errors import CnaLensError, InputError
from cna_lens.metrics.answer_labels import Evaluation
from cna_lens.metrics.conditions import Answered, load_labels
from cna_lens.report.evidences import SavedEvidence
from cna_lens.report.runs import FORMAT as RUN_FORMAT, Run
from cna_lens.report.study_table import StudyTable
from cna_lens.report.texts import Texts
from cna_lens.results.circuit import FORMAT as CIRCUIT_FORMAT, Circuit
from cna_lens.results.records import Evidence
from cna_lens.steering.comparison.table import Comparison

Result = (
    Run
    | Circuit
    | Evaluation
    | tuple[Answered, ...]
    | Comparison
    | Evidence
    | SavedEvidence
    | StudyTable
    | Texts
)

KNOWN = (
    "circuits, labels of `cna-lens evaluate`, comparisons, saved evidence, and studies of "
    "`cna-lens reproduce`"
)


@dataclass(frozen=True)
class Named:
    """A result, and its name in the report.

    Attributes:
        name: its file, or the user's own name.
        result: the result.
    """

    name: str
    result: Result


@dataclass(frozen=True)
class Found:
    """The results that were read.

    Attributes:
        results: in the order of the files.
        left_out: the other files of the folders, each with the reason.
    """

    results: tuple[Named, ...]
    left_out: tuple[tuple[str, str], ...] = ()


def read_results(paths: Iterable[str | Path]) -> Found:
    """Read results from files, and from the files of folders.

    In a folder the .json and .jsonl files are read, but not its subfolders. A file with the texts
    of answers is read only where it is named itself. In a folder it is left out and listed, like
    every file that holds no result.

    A file of a folder is called by the folder's name and its own, or by its whole path where
    another is called so too. A file that is named twice is read once.

    Args:
        paths: files and folders.

    Raises:
        InputError: a path does not exist, a named file cannot be read or holds no result, or the
            folders hold no result.
        CircuitFileError: a named circuit file is damaged.
    """
    results: dict[Path, tuple[str, Result]] = {}
    left_out: list[tuple[str, str]] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path} does not exist; give {KNOWN}, or folders of them")
        if path.is_file():
            results[path] = str(path), _read(path)
            continue
        for file in sorted(path.iterdir()):
            if not file.is_file() or file.suffix not in (".json", ".jsonl"):
                continue
            try:
                result = _read(file)
            except CnaLensError as error:
                left_out.append((str(file), str(error)))
                continue
            if isinstance(result, Texts):
                why = "it holds the full text of answers; name the file itself to show them"
                left_out.append((str(file), why))
            else:
                results[file] = f"{path.resolve().name}/{file.name}", result
    if not results:
        reasons = "".join(f"; {name}: {why}" for name, why in left_out)
        raise InputError(f"there is nothing to report; give {KNOWN}{reasons}")
    names = Counter(name for name, _ in results.values())
    return Found(
        tuple(
            Named(name if names[name] == 1 else str(path), result)
            for path, (name, result) in results.items()
        ),
        tuple(left_out),
    )


def _read(path: Path) -> Result:
    text = _text(path)
    try:
        whole = json.loads(text)
    except ValueError:
        return _read_lines(path, text)
    if not isinstance(whole, dict) or "prompt_id" in whole or "comparison" in whole:
        return _read_lines(path, text)
    try:
        return _read_object(path, whole)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CnaLensError):
            raise
        raise InputError(f"{path} is damaged: {error!r}") from error


def _read_object(path: Path, whole: dict[str, Any]) -> Result:
    if whole.get("format") == CIRCUIT_FORMAT:
        return Circuit.load(path)
    if whole.get("format") == RUN_FORMAT:
        return Run.from_record(whole)
    if "evidence" in whole:
        return SavedEvidence.from_record(whole)
    if {"rows", "differences", "readings"} <= set(whole):
        return StudyTable.from_record(whole)
    raise InputError(f"{path} is none of {KNOWN}")


def _read_lines(path: Path, text: str) -> Result:
    # Texts may hold characters at which `splitlines` would also split.
    lines = text.removesuffix("\n").split("\n")
    try:
        first = dict(json.loads(lines[0]))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is none of {KNOWN}") from error
    if "comparison" in first:
        return Comparison.load(path)
    if "notice" in first:
        try:
            return Texts.from_records(first, list(map(json.loads, lines[1:])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged: {error!r}") from error
    if "prompt_id" in first:
        return load_labels(path)
    if "evaluation" in first:
        raise InputError(f"{path} holds the records behind labels.jsonl; give that")
    if "study" in first:
        raise InputError(f"{path} holds the records behind a study's tables; give the tables")
    raise InputError(f"{path} is none of {KNOWN}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
