"""What a command was asked, kept beside what it found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cna_lens.report.sections import Section
from cna_lens.results.files import write_atomically
from cna_lens.results.provenance import PromptRecord, library_versions

FORMAT = "cna_lens.run"

Setting = str | int | float | bool | None


@dataclass(frozen=True)
class Run:
    """A command, what it ran on, and what it took.

    Attributes:
        command: as it would be typed again, every setting named.
        model: its name.
        weights_sha256: see `cna_lens.weights_hash`.
        prompts: how many of each kind, and the hash of their tokens; no text.
        settings: by name.
        seconds: what it took.
        date: of its end, as 2026-01-31.
        versions: of the libraries that matter.
        slower: what was slower than it could be, and why.
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
        """Write it as JSON."""
        body = {"format": FORMAT, **asdict(self)}
        write_atomically(path, json.dumps(body, indent=1, sort_keys=True) + "\n")

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Run:
        """The run that `save` wrote."""
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
    """What was asked."""
    prompts = [
        (f"{kind} prompts", f"{record.count}, tokens {record.sha256[:16]}")
        for kind, record in run.prompts.items()
    ]
    settings = [(each.replace("_", " "), str(value)) for each, value in run.settings.items()]
    versions = ", ".join(f"{library} {version}" for library, version in run.versions.items())
    return Section(
        f"What was asked: {name}",
        facts=(
            ("model", run.model),
            ("weights", run.weights_sha256),
            *prompts,
            *settings,
            ("date", f"{run.date}, {run.seconds:.0f} s"),
            ("versions", versions),
            *([("slower than it could be", run.slower)] if run.slower else []),
        ),
        commands=(run.command,),
    )
