"""Run a benchmark, print its table, write its JSON."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer
from rich.console import Console
from rich.table import Table

from cna_lens import planted_models
from experiments.benchmarks import costs, cpu, generation, gpu, shapes
from experiments.benchmarks.side_by_side import SideBySide
from experiments.benchmarks.timing import Measure
from experiments.shared.result_files import RESULTS, Folder, environment, write_record

app = typer.Typer(help="Benchmarks of cna_lens, every row measured side by side in one run.")
Out = Annotated[Path, typer.Option(help="Folder for the JSON file and the plot.")]
Repeats = Annotated[int, typer.Option(help="Counted runs of each side.", min=1)]


@app.command("cpu")
def cpu_command(
    out: Out = Path("out/benchmarks"),
    repeats: Repeats = 5,
    only: Annotated[list[str] | None, typer.Option(help="Parts to run; all by default.")] = None,
) -> None:
    """The demo model, on whatever machine this is."""
    _report("cpu", cpu.run(repeats, out, only), out)


@app.command("gpu")
def gpu_command(out: Out = Path("out/benchmarks"), repeats: Repeats = 5) -> None:
    """Random weights in the shapes of Llama 3.1 8B and 70B, in bfloat16."""
    _report("gpu", gpu.Bench(repeats=repeats).run(), out)


@app.command("costs")
def costs_command(
    out: Out = Path("out/benchmarks"),
    repeats: Repeats = 3,
    only: Annotated[list[str] | None, typer.Option(help="Parts to run; all by default.")] = None,
) -> None:
    """Learned rankings, integrated gradients and evidence on the demo model."""
    _report("costs", costs.run(repeats, only), out)


@app.command("ray")
def ray_command(
    out: Out = Path("out/benchmarks"),
    repeats: Repeats = 1,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Planted models of the split tuning; the first two by default."),
    ] = None,
    ranking: Annotated[
        list[str] | None, typer.Option(help="Rankings; contrast and random by default.")
    ] = None,
) -> None:
    """The bench in one process, and in two workers of one core each; needs two quiet cores."""
    models = model or planted_models("tuning")[:2]
    side_by_side = SideBySide(models, ranking or ("contrast", "random"), out / "ray", repeats)
    _report("ray", side_by_side.run(), out)


@app.command("shapes")
def shapes_command(
    folder: Annotated[Path, typer.Option(help="Where models are written to, up to 30 GB each.")],
    shape: Annotated[list[str] | None, typer.Option(help="Shapes to run; all by default.")] = None,
    out: Folder = RESULTS,
) -> None:
    """Random weights in the shapes of eight of the paper's models, in bfloat16, on the CPU."""
    path = out / "shapes.json"
    before = json.loads(path.read_text())["shapes"] if path.exists() else []
    found = {row["shape"]: row for row in before}
    for row in shapes.rows(shape or list(shapes.SHAPES), folder):
        found[row["shape"]] = row
        machine = {"memory_gib": psutil.virtual_memory().total / 2**30, **environment()}
        record = {
            "command": "python -m experiments.benchmarks shapes --folder FOLDER",
            "machine": machine,
            "shapes": [found[name] for name in shapes.SHAPES if name in found],
        }
        write_record(path, record)
        _print_shape(row)


@app.command("sizes")
def sizes_command() -> None:
    """Memory and cards of the shapes, from their configurations, for the documentation."""
    typer.echo(shapes.sizes())


def _print_shape(row: dict[str, Any]) -> None:
    table = Table("step", "seconds", "MiB", "GiB read", title=row["shape"])
    for step, each in row["steps"].items():
        figures = (f"{each[figure]:,.1f}" for figure in ("seconds", "mib", "read_gib"))
        table.add_row(step, *figures)
    Console(width=80).print(table)


@app.command("generation")
def generation_command(
    out: Out = Path("out/benchmarks"),
    repeats: Repeats = 5,
    sizes: Annotated[
        list[int] | None, typer.Option("--size", help="Numbers of prompts; 8, 32, 128 by default.")
    ] = None,
) -> None:
    """The demo model beside plain Hugging Face's `generate`."""
    _report("generation", generation.run(repeats, sizes or generation.SIZES), out)


def _report(name: str, measures: list[Measure], out: Path) -> None:
    table = Table("measure", "value", "range", "goal", title=f"Benchmark {name}")
    for measure in measures:
        table.add_row(
            measure.name,
            f"{measure.value:.3g} {measure.unit}",
            f"{measure.low:.3g} to {measure.high:.3g}",
            measure.goal,
        )
    Console().print(table)
    machine = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": platform.machine(),
        "python": platform.python_version(),
        **environment(),
    }
    record = {"machine": machine, "measures": [asdict(measure) for measure in measures]}
    write_record(out / f"{name}.json", record)


if __name__ == "__main__":
    app()
