"""Train an autoencoder, and measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import cna_lens
from experiments.sae.measure import measure
from experiments.sae.train import Recipe, train
from experiments.shared.result_files import RESULTS, Model, command, write_record

app = typer.Typer(help="A sparse autoencoder beside a circuit: needs the extra `sae`.")
DEFAULT = Recipe()


@app.command("train")
def train_command(
    model: Model = "demo-refusal",
    out: Annotated[Path, typer.Option(help="Folder for the autoencoder.")] = Path("out/sae"),
    tokens: Annotated[int, typer.Option(min=1000)] = DEFAULT.n_tokens,
    epochs: Annotated[int, typer.Option(min=1)] = DEFAULT.epochs,
    hook_point: str = DEFAULT.hook_point,
    expansion: Annotated[int, typer.Option(min=1)] = DEFAULT.expansion,
    k: Annotated[int, typer.Option(help="Features active at a token.", min=1)] = DEFAULT.k,
    seed: int = DEFAULT.seed,
) -> None:
    """Train on a model's activations on its own text."""
    recipe = Recipe(hook_point, tokens, epochs, expansion, k, seed=seed)
    typer.echo(train(recipe, out, cna_lens.load_model(model)))


@app.command("measure")
def measure_command(
    model: Model = "demo-refusal",
    sae: Annotated[Path, typer.Option(help="Folder that `train` has written.")] = Path("out/sae"),
    out: Path = RESULTS / "sae.json",
    seed: int = 0,
    limit: Annotated[int | None, typer.Option(help="Prompts of each kind, all by default.")] = None,
) -> None:
    """Write one row: cost, reconstruction and effect."""
    run = command("experiments.sae")
    write_record(out, measure(sae, cna_lens.load_model(model), seed=seed, command=run, limit=limit))


if __name__ == "__main__":
    app()
