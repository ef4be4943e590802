"""Train the adapters of the matched pair."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.demo_refusal.recipes import RECIPES
from experiments.demo_refusal.train import train

app = typer.Typer(help="The matched pair: teach the demo model to refuse.")
Out = Annotated[Path, typer.Option(help="Folder for checkpoints and the adapter.")]


@app.callback()
def main() -> None:
    """Keep `train` a command of its own."""


@app.command("train")
def train_command(
    name: Annotated[str, typer.Argument(help=", ".join(RECIPES))], out: Out = Path("out/pair")
) -> None:
    """Train one adapter; an interrupted run goes on where it stopped."""
    if name not in RECIPES:
        raise typer.BadParameter(f"there is no recipe {name!r}; there are: {', '.join(RECIPES)}")
    typer.echo(train(RECIPES[name], out))


if __name__ == "__main__":
    app()
