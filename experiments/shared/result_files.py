"""JSON files of results, with the command and the environment that their numbers come from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from cna_lens.results import json_text, library_versions, write_atomically

RESULTS = Path("experiments/results")
Folder = Annotated[Path, typer.Option(help="Folder of the JSON file.")]
Model = Annotated[str, typer.Option(help="A name for load_model.")]
Resamples = Annotated[int, typer.Option(help="Bootstrap resamples.", min=200)]
Permutations = Annotated[int, typer.Option(help="Shufflings of the labels.", min=99)]


def command(module: str) -> str:
    """The command line that started this process, `python -m MODULE ...`."""
    return " ".join([f"python -m {module}", *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Number of threads, and versions of the libraries."""
    return {"threads": torch.get_num_threads(), "versions": dict(library_versions())}


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, and print where it is."""
    write_atomically(path, json_text(dict(record), indent=1) + "\n")
    Console(width=80).print(f"Written to {path}", soft_wrap=True)
