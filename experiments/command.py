"""The command `reproduce`: its options and its work."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from tqdm.auto import tqdm

from cna_lens import InputError, Requirements, requirements
from cna_lens.models import Needs
from cna_lens.report import write_report
from cna_lens.results import Journal, write_atomically
from experiments.catalogue import EXPERIMENTS
from experiments.study import paper
from experiments.study.bench import Bench
from experiments.study.cells import Cell
from experiments.study.experiment import Experiment, Results
from experiments.study.on_ray import OnRay
from experiments.study.planning import show_plan
from experiments.study.reporting import Report
from experiments.study.running import RECORDS, OnBench, in_process, locked, open_journal, run_cells
from experiments.study.settings import (
    Pair,
    Study,
    Subject,
    checked_dtype,
    load_study,
    with_settings,
)
from experiments.study.sources import Sources

ALL = "all"
OUT = Path("out/reproduce")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help=f"{', '.join(EXPERIMENTS)}, or {ALL}.")],
    config: Annotated[
        str | None,
        typer.Option(help="The study: paper, smollm2, smoke, or a .toml file of your own."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="An instruct model, or the name of one pair of the study."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Its base model.")] = None,
    dtype: Annotated[str, typer.Option(help="For --model: float32, bfloat16, float16.")] = (
        "float32"
    ),
    limit: Annotated[
        int | None, typer.Option(help="Ask at most so many requests and questions.", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of resampling and drawing.", min=0)] = None,
    out: Annotated[
        Path | None, typer.Option(help=f"Folder for records and tables; {OUT}/STUDY by default.")
    ] = None,
    hub_root: Annotated[
        Path | None,
        typer.Option(help="Take models and data sets from OWNER/NAME folders in this one."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Measure on Ray, models side by side: local, or a cluster's address."),
    ] = None,
    sign: Annotated[
        str | None, typer.Option(help="Which differences count: abs, positive, negative.")
    ] = None,
    universal_filter: Annotated[
        str | None, typer.Option(help="Exclude universal neurons: before, after, none.")
    ] = None,
    caa_sign: Annotated[str | None, typer.Option(help="CAA's vectors: subtract, add.")] = None,
    keep_text: Annotated[
        bool,
        typer.Option(help="Also write answers to OUT/texts, in files that say what they are."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="List what is to be done and what it costs, and do nothing.")
    ] = False,
) -> None:
    """Reproduce a table or figure of the paper, beside its numbers; an interrupted run goes on."""
    study = _study(config, model, base, dtype)
    study = with_settings(
        study,
        limit=limit,
        seed=seed,
        sign=sign,
        universal_filter=universal_filter,
        caa_sign=caa_sign,
    )
    # Workers on Ray may run in another folder than this process.
    folder = (out or OUT / study.name).absolute()
    if ray is not None and device not in (None, "cpu", "cuda"):
        raise InputError(f"--device {device}: Ray chooses which GPU; give cpu or cuda")
    run = _Run(study, Sources(hub_root and hub_root.absolute()), folder, device, keep_text, ray)
    console = Console()
    experiments, left_out = run.choose(name)
    for each, reason in left_out.items():
        console.print(f"{each} is not run: {reason}.", style="yellow", highlight=False)
    if dry_run:
        run.plan(experiments, console)
        return
    with locked(folder):
        reports = run.measure(experiments)
        for each, report in zip(experiments, reports, strict=True):
            path = report.save(folder)
            report.show(console)
            if each.draw is not None:
                each.draw(report, folder / f"{each.name}.png")
            console.print(f"Written to {path}\n", soft_wrap=True, highlight=False)
        if name == ALL:
            _write_all(folder, reports, left_out)
        page = folder / "report.html"
        write_report([folder], page, title=f"Reproduction: {study.name}")
        console.print(f"Report for a browser: {page}", soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class _Run:
    """A study in a folder."""

    study: Study
    sources: Sources
    folder: Path
    device: str | None
    keep_text: bool
    ray: str | None

    def choose(self, name: str) -> tuple[list[Experiment], dict[str, str]]:
        """The experiments of a name, and for each that cannot be run the reason.

        Raises:
            InputError: there is no such experiment, or it cannot be run with these settings.
        """
        if name == ALL:
            reasons = {each: EXPERIMENTS[each].unavailable(self.study) for each in EXPERIMENTS}
            left_out = {each: reason for each, reason in reasons.items() if reason is not None}
            return [e for e in EXPERIMENTS.values() if e.name not in left_out], left_out
        if name not in EXPERIMENTS:
            raise InputError(
                f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)} and {ALL}"
            )
        reason = EXPERIMENTS[name].unavailable(self.study)
        if reason is not None:
            raise InputError(f"{name} cannot be run: {reason}")
        return [EXPERIMENTS[name]], {}

    def plan(self, experiments: Sequence[Experiment], console: Console) -> None:
        """Print the remaining work."""
        cells = [cell for each in experiments for cell in each.cells(self.study, self.sources)]
        if not (self.folder / RECORDS).exists():
            nothing = Journal(None, "study", {})
            show_plan(self.study, self.sources, cells, nothing, console)
            return
        with locked(self.folder):
            journal = open_journal(self.study, self.folder)
            show_plan(self.study, self.sources, cells, journal, console)

    def measure(self, experiments: Sequence[Experiment]) -> list[Report]:
        """Measure the cells that are missing, and make the reports.

        Raises:
            typer.Exit: with code 130, after an interrupt.
        """
        journal = open_journal(self.study, self.folder)
        wanted = {each.name: each.cells(self.study, self.sources) for each in experiments}
        every = [cell for cells in wanted.values() for cell in cells]
        try:
            run_cells(
                every,
                journal,
                self._load,
                config_sha256=self.config_sha256,
                measuring=in_process if self.ray is None else OnRay(self.ray, self._needs),
            )
        except KeyboardInterrupt:
            done = len({cell.key for cell in every} & set(journal))
            sys.stderr.write(
                f"\ninterrupted: {done} of {len({cell.key for cell in every})} cells are finished "
                f"in {self.folder}; the same command goes on from there\n"
            )
            raise typer.Exit(130) from None
        results = Results(self.study, self.sources, journal)
        return [
            replace(
                each.report(results),
                provenance=self._provenance(each.name, wanted[each.name], results),
            )
            for each in experiments
        ]

    @property
    def config_sha256(self) -> str:
        """The hash of the settings."""
        record = json.dumps(self.study.record(), sort_keys=True)
        return hashlib.sha256(record.encode()).hexdigest()

    def _load(self, cell: Cell) -> OnBench:
        self.folder.mkdir(parents=True, exist_ok=True)
        return OnBench(
            Bench(
                self.study,
                self.sources,
                self._subject(cell),
                self.folder,
                device=self.device,
                keep_text=self.keep_text,
                # A worker sees the GPUs that it was given, whose number may be an estimate.
                n_devices=torch.cuda.device_count() if self.ray and self.device != "cpu" else None,
                show=tqdm.write,
            )
        )

    def _needs(self, cell: Cell) -> Needs:
        pair = self._subject(cell).pair
        gpus = 0 if self.device == "cpu" else pair.devices
        return Needs(gpus, pair.memory_gib, cache(partial(self._estimate, cell)))

    def _estimate(self, cell: Cell, device: Literal["cuda", "cpu"]) -> Requirements:
        return requirements(
            self.sources.locate(cell.model),
            dtype=getattr(torch, cell.dtype),
            device=device,
            new_tokens=self.study.max_new_tokens,
        )

    def _subject(self, cell: Cell) -> Subject:
        return next(
            subject
            for subject in self.study.subjects("instruct", "base")
            if (subject.source, subject.pair.dtype) == (cell.model, cell.dtype)
        )

    def _provenance(
        self, name: str, cells: Sequence[Cell], results: Results
    ) -> dict[str, str | int]:
        hashes = results.weights(cells)
        return {
            "reproduces": paper.TITLE,
            "command": " ".join(["cna-lens reproduce", name, *_options()]),
            "date": datetime.now(UTC).date().isoformat(),
            "seed": self.study.seed,
            "settings": self.config_sha256[:16],
            "weights": ", ".join(f"{model} {value[:16]}" for model, value in hashes.items()),
            "seconds": round(results.seconds(cells)),
        }


def _options() -> list[str]:
    """The options that were given, by `cna-lens reproduce` or by `python -m experiments`."""
    given = sys.argv[1:]
    first = next((place for place, word in enumerate(given) if word.startswith("-")), len(given))
    return given[first:]


def _study(config: str | None, model: str | None, base: str | None, dtype: str) -> Study:
    if model is None and base is not None:
        raise InputError(f"--base {base} needs its instruct model in --model")
    if model is None:
        if config is None:
            raise InputError("give --model, or a --config with models, such as smollm2")
        return load_study(config)
    if config is not None:
        study = load_study(config)
        known = [pair for pair in study.pairs if model in (pair.name, pair.instruct)]
        if known and base is None:
            return replace(study, pairs=tuple(known))
    short = Path(model).name.removesuffix("-Instruct").removesuffix("-instruct")
    pair = Pair(short, model, base, checked_dtype(dtype))
    if config is None:
        return Study(short, (pair,))
    return replace(study, pairs=(pair,))


def _write_all(folder: Path, reports: Sequence[Report], left_out: dict[str, str]) -> None:
    parts = [report.markdown() for report in reports]
    if left_out:
        lines = [f"- {name}: {reason}" for name, reason in left_out.items()]
        parts.append("# Not run\n\n" + "\n".join(lines) + "\n")
    write_atomically(folder / "all.md", "\n".join(parts))
