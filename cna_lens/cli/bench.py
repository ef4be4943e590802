"""The command `bench`: rankings against a truth that is known.

Like `app`, this module loads no library that models need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cna_lens.cli.options import (
    RANKING_HELP,
    Device,
    Json,
    check_folder,
    quiet_loading,
    ranking_of,
)
from cna_lens.errors import InputError

if TYPE_CHECKING:
    from cna_lens.discovery.rankings.protocol import Ranking
    from cna_lens.evidence.league import League
    from cna_lens.models.loading.planted import Split

app = typer.Typer(help="Measure methods where the truth is known.", no_args_is_help=True)
SHOWN = ("contrast", "squared_attribution", "random")
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
            help=f"{RANKING_HELP}; repeat the option for more. By "
            "default all but learned_mask and node_pruning, which take minutes, and "
            "perturbation_probing."
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
            "errors; activations are not read again, gradients and answers are."
        ),
    ] = 0,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Processes, each with models of its own and about 2 GiB of memory."
        ),
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(help="Run models side by side on Ray: local, or a cluster's address."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the results; an interrupted run goes on from it.")
    ] = Path("out/bench"),
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score rankings on models whose behaviour was planted in known neurons."""
    import json
    from contextlib import nullcontext
    from dataclasses import asdict

    from cna_lens.cli.render import console, print_json, progress_console
    from cna_lens.discovery.rankings.scoring import RANKINGS
    from cna_lens.evidence.benchmark import checked
    from cna_lens.results.files import json_text, write_atomically

    if ray is not None and jobs > 1:
        raise InputError(f"--ray {ray} and --jobs {jobs} are two ways to run models; give one")
    check_folder(out)
    asked = _Asked(tuple(ranking or RANKINGS), split, half_samples, out / split, device, ray)
    chosen = asked.rankings()
    quiet_loading()
    # On Ray each model has a row of its own.
    with nullcontext() if ray else progress_console.status("planted models") as status:
        said = status.update if status else _nothing
        if jobs > 1:
            names, _ = checked(chosen, split, model, half_samples)
            _in_processes(asked, names, min(jobs, len(names)), said)
        found = asked.league(chosen, model, said)
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
    write_atomically(out / f"{split}.json", json_text(record, indent=1, sort_keys=False) + "\n")
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


@app.command()
def show(
    model: Annotated[
        str, typer.Argument(help="A planted model, such as planted/sums-46-all-0.")
    ] = "planted/sums-46-all-0",
    ranking: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{RANKING_HELP}; repeat the option for more. By "
            "default contrast, squared_attribution and random."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the record and the figure.")] = Path(
        "out/shown"
    ),
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Show on one planted model which of its neurons rankings find, and what ablation does."""
    from cna_lens.cli.planted import run
    from cna_lens.cli.render import print_json

    check_folder(out)
    chosen = [ranking_of(name) for name in ranking or SHOWN]
    record = run(model, out, device, rankings=chosen, verbose=not as_json)
    if as_json:
        print_json(record)


@dataclass(frozen=True)
class _Asked:
    """What was asked for, as plain data that another process can be given."""

    names: tuple[str, ...]
    split: Split
    half_samples: int
    journal: Path
    device: str | None
    ray: str | None = None

    def rankings(self) -> list[Ranking]:
        return [ranking_of(name) for name in self.names]

    def league(
        self,
        rankings: Sequence[Ranking],
        models: Sequence[str] | None,
        started: Callable[[str], None],
    ) -> League:
        """Run what is not in the journal yet, and return all results."""
        from cna_lens.evidence.benchmark import bench_rankings
        from cna_lens.models.cluster.showing import WorkerRows

        with WorkerRows() as rows:
            return bench_rankings(
                rankings,
                split=self.split,
                models=models,
                n_half_samples=self.half_samples,
                journal=self.journal,
                device=self.device,
                started=started,
                ray=self.ray,
                show=rows,
            )


def _nothing(_: str) -> None:
    pass


def _in_processes(
    asked: _Asked, models: Sequence[str], jobs: int, said: Callable[[str], None]
) -> None:
    """Fill the journal, one model after the other in each process."""
    import torch

    from cna_lens.errors import CnaLensError

    n_threads = max(1, torch.get_num_threads() // jobs)
    left, running = list(models), set[Future[None]]()
    # A forked process would inherit the locks of torch's threads, but not the threads.
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_begin, initargs=(n_threads,)
    )
    try:
        while left or running:
            # What is submitted cannot be taken back, so that no model waits inside the pool.
            while left and len(running) < jobs:
                running.add(pool.submit(_run, asked, left.pop(0)))
            ended, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            for each in ended:
                each.result()
            said(f"{len(models) - len(left) - len(running)} of {len(models)} models")
    except BrokenProcessPool as error:
        fewer = f"with --jobs {jobs - 1}" if jobs > 1 else "where more memory is free"
        raise CnaLensError(
            f"a process ended without a result, perhaps for want of memory; run the command "
            f"again {fewer}: finished results are kept in {asked.journal}"
        ) from error
    except BaseException:
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _begin(n_threads: int) -> None:
    import torch

    torch.set_num_threads(n_threads)
    quiet_loading()


def _run(asked: _Asked, model: str) -> None:
    asked.league(asked.rankings(), [model], lambda _: None)


def _table(found: League) -> object:
    from cna_lens.cli.render import ranking_cell, ranking_table

    n_models = len({each.model for each in found.scored})
    title = f"Means over {n_models} planted models, split {found.split}"
    table = ranking_table(title, "ranking", list(COLUMNS))
    means = found.means()
    names = [ranking.partition("(")[0] for ranking in means]
    for name, (ranking, figures) in zip(names, means.items(), strict=True):
        # Settings are shown where they tell rankings of one name apart.
        table.add_row(
            ranking_cell(name if names.count(name) == 1 else ranking),
            *(
                f"{figures[key].value:.2f}" if key in figures else "none"
                for key in COLUMNS.values()
            ),
        )
    return table
