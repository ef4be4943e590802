"""Train, package and measure the adapters of the matched pair."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from cna_lens.models import ADAPTER_FOLDER, ADAPTER_SHA256
from experiments.demo.matched_pair.card import card
from experiments.demo.matched_pair.figures import JBB, goals, measure
from experiments.demo.matched_pair.recipes import RECIPES
from experiments.demo.matched_pair.train import TRAINING_RECORD, train

app = typer.Typer(help="The matched pair: teach the demo model to refuse, and measure it.")
Name = Annotated[str, typer.Argument(help=", ".join(RECIPES))]
Out = Annotated[Path, typer.Option(help="Folder for checkpoints and the adapter.")]
PACKAGED = ("adapter_config.json", "adapter_model.safetensors", TRAINING_RECORD)


@app.command("train")
def train_command(name: Name, out: Out = Path("out/pair")) -> None:
    """Train one adapter; an interrupted run goes on from its last checkpoint."""
    if name not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    typer.echo(train(RECIPES[name], out))


@app.command("package")
def package_command(name: Name, out: Out = Path("out/pair")) -> None:
    """Copy a trained adapter into the package, and print the hash to enter there."""
    (ADAPTER_FOLDER / name).mkdir(exist_ok=True)
    for file in PACKAGED:
        shutil.copyfile(out / name / file, ADAPTER_FOLDER / name / file)
    record = json.loads((ADAPTER_FOLDER / name / TRAINING_RECORD).read_text())
    typer.echo(f"ADAPTER_SHA256: {record['adapter_sha256']}")


@app.command("figures")
def figures_command(
    name: Name,
    jbb: Annotated[str, typer.Option(help="The prompts of JBB-Behaviors, a data set.")] = JBB,
) -> None:
    """Measure a packaged adapter, and write figures.json and its model card beside it."""
    if name not in ADAPTER_SHA256:
        raise typer.BadParameter(f"no adapter {name!r} is packaged; package it first")
    figures = measure(name, goals(jbb))
    record = json.loads((ADAPTER_FOLDER / name / TRAINING_RECORD).read_text())
    text = json.dumps(figures, indent=1) + "\n"
    (ADAPTER_FOLDER / name / "figures.json").write_text(text, encoding="utf-8")
    (ADAPTER_FOLDER / name / "README.md").write_text(
        card(name, figures, record, JBB), encoding="utf-8"
    )
    typer.echo(text)


if __name__ == "__main__":
    app()
