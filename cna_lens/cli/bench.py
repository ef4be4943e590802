"""The command `bench`: rankings against a truth that is known.

Like `app`, this module loads no library that models need.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cna_lens.cli.options import Device, Json, quiet_loading

if TYPE_CHECKING:
    from cna_lens.discovery.rankings.protocol import Ranking
    from cna_lens.evidence.league import League

app = typer.Typer(help="Measure methods where the truth is known.", no_args_is_help=True)
COLUMNS = {
    "AUROC": "auroc",
    "in layers": "auroc_within_layers",
    "precision": "precision",
    "of oracle": "share_of_oracle",
    "KL": "kl",
    "quality": "quality",
}


@app.callback()
def bench() -> None:
    """Measure methods where the truth is known."""


@app.command()
def rankings(
    ranking: Annotated[
        list[str] | None,
        typer.Option(
            help="A ranking's name, or file.py:Class for your own; repeat the option for more. By "
            "default all with a name but best, which takes minutes for each model."
        ),
    ] = None,
    split: Annotated[
        Literal["tuning", "reporting"],
        typer.Option(help="Planted models to choose settings on, or those to report."),
    ] = "reporting",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A planted model of this split; by default all of them."),
    ] = None,
    half_samples: Annotated[
        int,
        typer.Option(
            help="Random halves of the prompts from which neurons are ranked again, for standard "
            "errors; each costs half of a ranking's time."
        ),
    ] = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for the results; an interrupted run goes on from it.")
    ] = Path("out/bench"),
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score rankings on models whose behaviour was planted in known neurons."""
    import json
    from dataclasses import asdict

    from cna_lens.cli.render import console, print_json, progress_console
    from cna_lens.discovery.rankings.scoring import RANKINGS
    from cna_lens.evidence.benchmark import bench_rankings
    from cna_lens.results.files import write_atomically

    chosen = [_ranking(name) for name in ranking] if ranking else list(RANKINGS.values())
    quiet_loading()
    with progress_console.status("planted models") as status:
        found = bench_rankings(
            chosen,
            split=split,
            models=model,
            n_half_samples=half_samples,
            journal=out / f"{split}.jsonl",
            device=device,
            started=status.update,
        )
    means = {
        ranking: {name: asdict(value) for name, value in figures.items()}
        for ranking, figures in found.means().items()
    }
    record = {
        "split": split,
        "means": means,
        "figures": json.loads(found.to_frame().to_json(orient="records") or "[]"),
        "scored": [each.record() for each in found.scored],
    }
    write_atomically(out / f"{split}.json", json.dumps(record, indent=1) + "\n")
    from cna_lens.report.pictures import can_draw

    if can_draw():
        from cna_lens import viz

        viz.league(found).save(out / split)
    if as_json:
        print_json(record)
        return
    console.print(_table(found))
    typer.echo(f"Results: {out / f'{split}.json'}")
    if not can_draw():
        typer.echo("No figure was drawn: install cna-lens[viz].")


def _ranking(name: str) -> Ranking:
    """The ranking of a name, or that of a class in a file."""
    import runpy
    import sys

    from cna_lens.discovery.rankings.scoring import as_ranking
    from cna_lens.errors import InputError

    path, _, attribute = name.rpartition(":")
    if not path:
        return as_ranking(name)
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist; give a ranking's name or file.py:Class")
    # As when Python runs the file: modules beside it can be imported.
    sys.path.insert(0, str(Path(path).resolve().parent))
    there = runpy.run_path(path)
    if attribute not in there:
        raise InputError(f"{path} has no {attribute!r}; name the class of your ranking")
    own = there[attribute]
    try:
        return as_ranking(own() if isinstance(own, type) else own)
    except TypeError as error:
        raise InputError(
            f"{attribute} cannot be made without settings ({error}); give each field a default, or "
            "name a ranking that the file has made"
        ) from error


def _table(found: League) -> object:
    from rich.table import Table

    n_models = len({each.model for each in found.scored})
    table = Table(title=f"Means over {n_models} planted models, split {found.split}")
    table.add_column("ranking", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    means = found.means()
    names = [ranking.partition("(")[0] for ranking in means]
    for name, (ranking, figures) in zip(names, means.items(), strict=True):
        # Settings are shown where they tell rankings of one name apart.
        table.add_row(
            name if names.count(name) == 1 else ranking,
            *(
                f"{figures[key].value:.2f}" if key in figures else "none"
                for key in COLUMNS.values()
            ),
        )
    return table
