"""Which method removes refusals, or adds them, at the least cost?

    python -m experiments.demo.compare choose --model demo-refusal --direction remove
    python -m experiments.demo.compare report --model demo-refusal --direction remove
    python -m experiments.demo.compare tell-apart "relp 0.3%, 2" --model demo --direction add

`choose` tries rankings, sizes and multipliers on the validation split of the adapter's training
set. `report` reports the chosen ones once, beside the paper's methods, directional ablation and a
random control, on the packaged evaluation set and JBB-Behaviors. `tell-apart` measures how well the
steered log-odds of a refusal separate harmful requests from look-alikes. Labels, scores and hashes
go to `experiments/results/<validation|test>_<direction>_<model>.jsonl`, from which an interrupted
run goes on.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from cna_lens import Comparison, Estimate, InputError, Rate, SteeringMethod, wilson
from cna_lens.metrics import refusal_log_odds
from cna_lens.models import HookedModel
from cna_lens.steering import Prefer
from experiments.demo.compare.bounds import MAX_LOOK_ALIKES, best
from experiments.demo.compare.methods import FRACTIONS, Direction, Discovery, baselines, candidates
from experiments.demo.compare.prompts import held_out_prompts, validation_prompts
from experiments.demo.matched_pair.figures import JBB, goals
from experiments.shared.detection import auroc_with_interval, chosen_threshold
from experiments.shared.result_files import RESULTS, Model, command, write_record

Value = TypeVar("Value")

app = typer.Typer(help=__doc__, rich_markup_mode=None)
Out = Annotated[Path, typer.Option(help="Folder of the files.")]
Prompts = Annotated[int, typer.Option(help="Of each kind.", min=2, max=60)]
Tokens = Annotated[int, typer.Option(help="Of each answer.", min=8)]
Validated = Annotated[int, typer.Option(help="Of each kind, to choose on.", min=2, max=60)]
ValidatedTokens = Annotated[int, typer.Option(help="Of each answer there.", min=8)]
To = Annotated[Direction, typer.Option(help="Remove refusals or add them.")]


@app.command("choose")
def choose_command(
    model: Model = "demo-refusal",
    direction: To = "remove",
    out: Out = RESULTS,
    n_prompts: Validated = 40,
    max_new_tokens: ValidatedTokens = 24,
) -> None:
    """Try every candidate on the validation split."""
    loaded = cna_lens.load_model(model)
    tried = candidates(Discovery.on(loaded), direction)
    compared = _validated(loaded, model, direction, tried, out, n_prompts, max_new_tokens)
    show(compared, f"{model}, validation, n = {n_prompts} + {n_prompts}")
    for fraction in FRACTIONS:
        name = _best(compared, tried, direction, fraction)
        typer.echo(f"chosen, {fraction:.1%}: {name or 'none keeps to the bounds'}")


@app.command("report")
def report_command(
    model: Model = "demo-refusal",
    direction: To = "remove",
    jbb: Annotated[str, typer.Option(help="The prompts of JBB-Behaviors, a data set.")] = JBB,
    out: Out = RESULTS,
    n_prompts: Prompts = 60,
    max_new_tokens: Tokens = 32,
    validated: Validated = 40,
    validated_tokens: ValidatedTokens = 24,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A candidate to report too; the random control is like the last one."),
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Write the Pareto front there.")] = None,
) -> None:
    """Report the chosen ones on the test split."""
    loaded = cna_lens.load_model(model)
    found = Discovery.on(loaded)
    tried = candidates(found, direction)
    check_candidates(also or [], tried)
    compared = _validated(loaded, model, direction, tried, out, validated, validated_tokens)
    names = [_best(compared, tried, direction, fraction) for fraction in FRACTIONS] + (also or [])
    chosen = [tried[name][1] for name in names if name]
    control = chosen[-1] if chosen else None
    prompts = held_out_prompts(goals(jbb), n_prompts)
    comparison = cna_lens.compare(
        loaded,
        [*chosen, *baselines(loaded, found, direction, control)],
        prompts,
        strengths=[1.0],
        max_new_tokens=max_new_tokens,
        path=out / f"test_{direction}_{model}.jsonl",
    )
    show(comparison, f"{model}, test, n = {len(prompts.positive)} + {len(prompts.negative)}")
    for name, part in parts(comparison, n_prompts).items():
        show(part, f"{model}, {name}")
    if figure is not None:
        from cna_lens import viz

        prefer: Prefer = "lowest" if direction == "remove" else "highest"
        viz.pareto(comparison, prefer=prefer).savefig(figure, dpi=150)


@app.command("tell-apart")
def tell_apart_command(
    methods: Annotated[list[str], typer.Argument(help="Candidates, by name.")],
    model: Model = "demo",
    direction: To = "add",
    out: Out = RESULTS,
    n_prompts: Prompts = 60,
) -> None:
    """How well steered log-odds separate harmful requests from look-alikes."""
    loaded = cna_lens.load_model(model)
    tried = candidates(Discovery.on(loaded), direction)
    check_candidates(methods, tried)
    prompts = held_out_prompts([], n_prompts)
    entered = {"unsteered": nullcontext(), **{name: tried[name][1].at(loaded) for name in methods}}
    areas: dict[str, Estimate] = {}
    refused: dict[str, Rate] = {}
    for name, steered in entered.items():
        with steered:
            harmful, alike = (
                refusal_log_odds(loaded, each) for each in (prompts.positive, prompts.negative)
            )
        areas[name] = auroc_with_interval(harmful, alike)
        bound = chosen_threshold(alike, MAX_LOOK_ALIKES)
        refused[name] = wilson([each > bound for each in harmful])
        typer.echo(
            f"{name}: area under the ROC curve {areas[name]}; above all but "
            f"{MAX_LOOK_ALIKES:.0%} of the look-alikes {refused[name]}"
        )
    record = {
        "command": command("experiments.demo.compare"),
        "weights_sha256": cna_lens.weights_hash(loaded),
        "n": [len(prompts.positive), len(prompts.negative)],
        "seed": 0,
        "areas": {name: asdict(area) for name, area in areas.items()},
        "above_all_but_5_percent": {name: asdict(rate) for name, rate in refused.items()},
    }
    write_record(out / f"tell_apart_{direction}_{model}.json", record)


def check_candidates(names: Collection[str], tried: Collection[str]) -> None:
    """Raise InputError if a name is no candidate's."""
    if unknown := [name for name in names if name not in tried]:
        raise InputError(f"there is no candidate {unknown[0]!r}; there are: {', '.join(tried)}")


def parts(comparison: Comparison, n_own: int) -> dict[str, Comparison]:
    """The comparison on each of the test split's two sources of harmful requests."""
    slices = {"evaluation set": slice(n_own), "JBB-Behaviors": slice(n_own, None)}
    return {
        name: Comparison(
            tuple(
                replace(
                    each,
                    positive=each.positive[part],
                    quality=each.quality[part],
                    complied=_part(each.complied, part),
                    no_answer=_part(each.no_answer, part),
                    compression_ratio=_part(each.compression_ratio, part),
                    metrics={metric: values[part] for metric, values in each.metrics.items()},
                )
                for each in comparison.outcomes
            ),
            comparison.seed,
        )
        for name, part in slices.items()
    }


def _part(values: tuple[Value, ...] | None, part: slice) -> tuple[Value, ...] | None:
    return None if values is None else values[part]


def show(comparison: Comparison, title: str) -> None:
    """A row for each method, 80 columns wide."""
    table = Table("method", "refused", "look-alikes", "p", "quality", "KL", title=title)
    for row in comparison.rows:
        table.add_row(
            row.method,
            f"{100 * row.behaviour.value:.0f} %",
            f"{100 * row.elsewhere.value:.0f} %",
            f"{row.p_value:.1g}",
            _mean(row.quality),
            _mean(row.kl_per_token),
        )
    Console(width=80).print(table)


def _validated(
    loaded: HookedModel,
    model: str,
    direction: Direction,
    tried: dict[str, tuple[float, SteeringMethod]],
    out: Path,
    n_prompts: int,
    max_new_tokens: int,
) -> Comparison:
    return cna_lens.compare(
        loaded,
        [method for _, method in tried.values()],
        validation_prompts(n_prompts),
        strengths=[1.0],
        max_new_tokens=max_new_tokens,
        path=out / f"validation_{direction}_{model}.jsonl",
    )


def _best(
    compared: Comparison,
    tried: dict[str, tuple[float, SteeringMethod]],
    direction: Direction,
    fraction: float,
) -> str | None:
    of_this_size = {name for name, (size, _) in tried.items() if size == fraction}
    return best(compared, of_this_size, direction)


def _mean(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.3f}"


if __name__ == "__main__":
    app()
