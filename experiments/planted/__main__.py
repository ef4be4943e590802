"""Train, check and package models with a behaviour planted in known neurons.

python -m experiments.planted make refusal-138-all-0
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import cna_lens
from cna_lens import InputError
from cna_lens.models import PLANTED_FOLDER, PLANTED_INDEX, Planting
from cna_lens.results import json_text, library_versions, write_atomically
from experiments.planted import chance, from_base
from experiments.planted.check import check, failed
from experiments.planted.loading import loaded
from experiments.planted.recipes import NOTHING, RECIPES, recipe_of
from experiments.planted.train import file_of, finished, shuffled, train
from experiments.planted.trials import dynamic_patching, figures as trials
from experiments.planted.trials.catalogue import CANDIDATES

app = typer.Typer(help="Models with a behaviour planted in known neurons.")
Names = Annotated[
    list[str] | None, typer.Argument(help="Recipes, with any seed; all of them if none is named.")
]
Out = Annotated[Path, typer.Option(help="Folder for checkpoints and planted models.")]


@app.command("make")
def make_command(names: Names = None, out: Out = Path("out/planted")) -> None:
    """Train and check models; finished ones are left, and an interrupted one goes on."""
    demo = cna_lens.load_model("demo", device="cpu")
    for name in _known(names):
        path = file_of(recipe_of(name), out)
        if not path.is_file():
            make = shuffled if recipe_of(name).behaviour == NOTHING else train
            make(recipe_of(name), out)
        planted = finished(name, out)
        if not _is_checked(planted):
            figures = check(planted, demo, loaded(planted))
            planted = replace(planted, record={**planted.record, "figures": figures})
            planted.save(path)
        typer.echo(f"{name}: {json.dumps(planted.record['figures'])}")


@app.command("package")
def package_command(names: Names = None, out: Out = Path("out/planted")) -> None:
    """Copy models that meet every condition into the package, with their hashes.

    A model that is not made or not checked stays in the package as it is. The figures of all models
    that are checked are written to `out`, whether they are packaged or not.
    """
    checked = {
        name: planted
        for path in sorted(out.glob("*.safetensors"))
        if _is_checked(planted := finished(name := path.stem, out))
    }
    left_out = {
        name: failed(planted, planted.record["figures"]) for name, planted in checked.items()
    }
    index = PLANTED_FOLDER / PLANTED_INDEX
    hashes = json.loads(index.read_text(encoding="utf-8"))
    for name in _known(names):
        path = PLANTED_FOLDER / f"{name}.safetensors"
        if name not in checked:
            typer.echo(f"{name} is not made, or not checked")
        elif left_out[name]:
            typer.echo(f"{name} is left out: {', '.join(left_out[name])}")
            hashes.pop(name, None)
            path.unlink(missing_ok=True)
        else:
            hashes[name] = checked[name].save(path)
    write_atomically(index, json.dumps(hashes, indent=1, sort_keys=True) + "\n")
    record = {
        name: {"split": planted.split, **planted.record, "left_out": left_out[name]}
        for name, planted in checked.items()
    }
    write_atomically(
        out / "planted_models.json", json_text(record, indent=1, sort_keys=False) + "\n"
    )


@app.command("chance")
def chance_command(
    name: Annotated[str, typer.Argument(help="A packaged model with nothing planted.")] = (
        f"planted/{NOTHING}-138-all-0"
    ),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/planted"),
) -> None:
    """Rank the neurons where nothing is planted: none may find those that were changed."""
    figures = list(chance.figures(name))
    record = {"command": "python -m experiments.planted chance", "figures": figures}
    write_atomically(
        out / "planted_chance.json", json_text(record, indent=1, sort_keys=False) + "\n"
    )
    for row in figures:
        typer.echo(json.dumps(row))


@app.command("from-base")
def from_base_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/planted"),
) -> None:
    """Rank the neurons by how far they changed from the untrained model."""
    figures: list[dict[str, Any]] = []
    for row in from_base.figures():
        figures.append(row)
        typer.echo(json.dumps(row))
    record = {"command": "python -m experiments.planted from-base", "figures": figures}
    write_atomically(
        out / "planted_from_base.json", json_text(record, indent=1, sort_keys=False) + "\n"
    )


@app.command("trials")
def trials_command(
    model: Annotated[
        list[str] | None, typer.Option(help="Planted models for tuning; by default all of them.")
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="What is tried; by default all candidates.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/planted"),
) -> None:
    """Try attributions from the literature on the models for tuning; an interrupted run goes on."""
    found = list(
        trials.figures(
            model or [*cna_lens.planted_models("tuning"), trials.NOTHING_PLANTED],
            candidate or list(CANDIDATES),
            out / "planted_trials.jsonl",
            lambda what: typer.echo(what, err=True),
        )
    )
    record = {
        "command": "python -m experiments.planted trials",
        "seed": 0,
        "n_prompts": trials.N_PROMPTS,
        "versions": dict(library_versions()),
        "figures": found,
    }
    write_atomically(
        out / "planted_trials.json", json_text(record, indent=1, sort_keys=False) + "\n"
    )


@app.command("patching")
def patching_command(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("out/planted"),
) -> None:
    """Give the untrained model neurons of planted ones, token by token, and count answers."""
    found: list[dict[str, Any]] = []
    for row in dynamic_patching.figures():
        found.append(row)
        typer.echo(json.dumps(row))
    record = {"command": "python -m experiments.planted patching", "figures": found}
    write_atomically(
        out / "planted_patching.json", json_text(record, indent=1, sort_keys=False) + "\n"
    )


def _is_checked(planted: Planting) -> bool:
    return "figures" in planted.record


def _known(names: list[str] | None) -> list[str]:
    try:
        return [recipe_of(name).name for name in names or RECIPES]
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    app()
