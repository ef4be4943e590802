"""The command that gave the results, kept beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cna_lens.report.sections import Section
from cna_lens.results.files import json_text, write_atomically
from cna_lens.results.provenance import PromptRecord, library_versions

FORMAT = "cna_lens.run"

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Run:
    """A command, the model and prompts it ran on, and how long it took.

    Attributes:
        command: with every setting named, so that it can be run again.
        model: its name.
        weights_sha256: see `cna_lens.weights_hash`.
        prompts: the number of each kind and the hash of their tokens, without their text.
        settings: by name.
        seconds: how long it took.
        date: of its end, as 2026-01-31.
        versions: of the libraries whose version can change results.
        slower: what was slower than possible, and why.
    """

    command: str
    model: str
    weights_sha256: str
    prompts: Mapping[str, PromptRecord]
    settings: Mapping[str, Setting]
    seconds: float
    date: str
    versions: Mapping[str, str] = field(default_factory=lambda: dict(library_versions()))
    slower: str | None = None

    def save(self, path: Path) -> None:
        """Write the run as JSON."""
        body = {"format": FORMAT, **asdict(self)}
        write_atomically(path, json_text(body, indent=1) + "\n")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Run:
        """Restore the run that `save` wrote."""
        prompts: dict[str, Any] = record["prompts"]
        return cls(
            command=str(record["command"]),
            model=str(record["model"]),
            weights_sha256=str(record["weights_sha256"]),
            prompts={str(kind): PromptRecord(**each) for kind, each in prompts.items()},
            settings=dict(record["settings"]),
            seconds=float(record["seconds"]),
            date=str(record["date"]),
            versions=dict(record["versions"]),
            slower=record.get("slower"),
        )


def run_section(name: str, run: Run) -> Section:
    """What was asked: the model, the prompts and the settings."""
    settings = [(each.replace("_", " "), str(value)) for each, value in run.settings.items()]
    versions = ", ".join(f"{library} {version}" for library, version in run.versions.items())
    return Section(
        f"What was asked: {name}",
        facts=(
            ("model", run.model),
            *((f"{kind} prompts", str(record.count)) for kind, record in run.prompts.items()),
            *settings,
            ("date", f"{run.date}, {run.seconds:.0f} s"),
            *([("slower than it could be", run.slower)] if run.slower else []),
        ),
        provenance=(
            ("weights", run.weights_sha256),
            *(
                (f"{kind} prompts", f"tokens {record.sha256[:16]}")
                for kind, record in run.prompts.items()
            ),
            ("versions", versions),
        ),
        commands=(run.command,),
    )
