"""Prompts as commands take them: a file or data set, and which part of it."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from cna_lens.errors import InputError
from cna_lens.models.prompts.files import Prompts, read_prompts

SOURCE_HELP: Final = (
    ".txt (one prompt a line), .jsonl, .csv, or a data set's name or folder. Say which part by "
    "'?': prompts.csv?column=goal, JailbreakBench/JBB-Behaviors?config=behaviors&split=harmful"
    "&column=Goal"
)


def read_source(source: str) -> Prompts:
    """The prompts that a command was given.

    Raises:
        InputError: the part is not said rightly, or as `read_prompts`.
    """
    path, _, query = source.partition("?")
    options = dict(parse_qsl(query))
    if unknown := set(options) - {"column", "config", "split"}:
        raise InputError(
            f"{source} has the unknown setting {min(unknown)!r}, expected column, config or split"
        )
    return read_prompts(path, **options)
