"""Texts of answers, which are kept only where the user asks for them, on the user's disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.results.files import write_atomically

NOTICE = (
    "This file holds the full text of model answers, kept because keep_text was asked for. It may "
    "hold harmful text: do not publish it, and delete it when you are done."
)


def write_answers(path: str | Path, prompts: Sequence[Prompt], answers: Sequence[str]) -> None:
    """Write answers with their prompts as JSON lines; the first line warns of their content."""
    rows: list[dict[str, Any]] = [{"notice": NOTICE}]
    rows += [
        {"prompt_id": prompt_id(prompt), "prompt": _plain(prompt), "answer": answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    # Token ids may be integers of NumPy.
    lines = [json.dumps(row, ensure_ascii=False, default=int) for row in rows]
    write_atomically(Path(path), "".join(f"{line}\n" for line in lines))


def forget_answers(folder: Path) -> list[str]:
    """Delete the files of `write_answers` in a folder, and return their names."""
    found = [path for path in sorted(folder.glob("answers-*.jsonl")) if _holds_answers(path)]
    for path in found:
        path.unlink()
    return [path.name for path in found]


def _holds_answers(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().rstrip(b"\n") == json.dumps({"notice": NOTICE}).encode()


def read_answers(path: Path) -> dict[tuple[str, str], str]:
    """Read a file of `write_answers`: texts by the prompt's id and the text's hash."""
    if not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        _, *rows = map(json.loads, lines)
        return {(row["prompt_id"], sha256_of(row["answer"])): row["answer"] for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no file of answers; give another path, or delete that file"
        ) from error


def prompt_id(prompt: Prompt) -> str:
    """Identify a prompt by the beginning of the hash of its text, messages or token ids."""
    if isinstance(prompt, str):
        return sha256_of(prompt)[:16]
    # Token ids may be integers of NumPy.
    text = json.dumps(_plain(prompt), sort_keys=True, default=int)
    return sha256_of(text)[:16]


def _plain(prompt: Prompt) -> Any:
    return prompt.tolist() if isinstance(prompt, Tensor) else prompt


def sha256_of(text: str) -> str:
    """The hash of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
