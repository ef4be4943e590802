"""The tables of docs/truth.md, from the files that the bench and the experiments wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final, get_args

from cna_lens.models import Split

RESULTS: Final = Path(__file__).parents[1] / "results"
RANKINGS: Final = ("contrast", "attribution_patching", "squared_attribution", "learned_mask")
"""Those that have a column in the tables by model."""

Record = Mapping[str, Any]


def tables() -> dict[str, str]:
    """Each table's text by its name."""
    benches = {split: read(f"planted_{split}.json") for split in get_args(Split)}
    return {
        **{f"means, {split}": means(bench) for split, bench in benches.items()},
        "errors": errors(benches["reporting"]),
        "by model": by_model(benches),
        "effects": effects(benches),
        "pruning": pruning(read("planted_pruning.json")),
        "decoys": decoys(benches["reporting"]),
        "models": models(read("planted_models.json")),
        "chance": chance(read("planted_chance.json")),
        "from base": from_base(read("planted_from_base.json")),
        "compiled": compiled(read("compiled_programs.json")),
        "trials": trials(read("planted_trials.json")),
        "trial means": trial_means(read("planted_trials.json")),
        "patching": patching(read("planted_patching.json")),
    }


def read(name: str) -> Any:
    """A file of results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def means(bench: Record) -> str:
    """Each ranking's means over the models of a split, with intervals over models."""
    header = ("ranking", "AUROC", "in layers", "precision", "of oracle", "KL", "oracle's KL")
    rows = [
        (
            name.partition("(")[0],
            interval(figures, "auroc"),
            interval(figures, "auroc_within_layers"),
            interval(figures, "precision"),
            interval(figures, "share_of_oracle"),
            f"{figures['kl']['value']:.2f}",
            f"{figures['oracle_kl']['value']:.2f}",
            number(figures.get("lost_by_unplanted", {}).get("value")),
            number(figures.get("lost_by_random", {}).get("value")),
            f"{figures['forward']['value']:.2f} + {figures['backward']['value']:.2f}",
        )
        for name, figures in bench["means"].items()
    ]
    return table((*header, "by unplanted", "by random", "passes"), rows)


def errors(bench: Record) -> str:
    """Each ranking's standard errors over prompts: the root mean square over models."""
    found: dict[str, list[Record]] = {}
    for row in bench["figures"]:
        if row["auroc_error"] is not None:
            found.setdefault(row["ranking"].partition("(")[0], []).append(row)
    names = ("auroc_error", "auroc_within_layers_error")
    rows = [
        (name, *(f"{fmean(row[each] ** 2 for row in on) ** 0.5:.3f}" for each in names))
        for name, on in found.items()
    ]
    return table(("ranking", "AUROC", "in layers"), rows)


def by_model(benches: Mapping[str, Record]) -> str:
    """The area within layers and the precision of some rankings on each model."""
    rows = [
        (
            *named,
            *(f"{each['auroc_within_layers']:.2f}, {each['precision']:.2f}" for each in found),
        )
        for *named, found in on_models(benches)
    ]
    return table(("model", "split", *RANKINGS), rows)


def effects(benches: Mapping[str, Record]) -> str:
    """The share of the oracle's effect and the KL of some rankings on each model."""
    rows = [
        (
            *named,
            *(f"{number(each['share_of_oracle'])}, {each['kl']:.2f}" for each in found),
            f"{found[0]['oracle_kl']:.2f}",
        )
        for *named, found in on_models(benches)
    ]
    return table(("model", "split", *RANKINGS, "oracle's KL"), rows)


def on_models(benches: Mapping[str, Record]) -> Iterator[tuple[str, str, Sequence[Record]]]:
    """Each model's name and split, and the figures of `RANKINGS` on it."""
    for split, bench in benches.items():
        for model in dict.fromkeys(row["model"] for row in bench["figures"]):
            found = {
                row["ranking"].partition("(")[0]: row
                for row in bench["figures"]
                if row["model"] == model
            }
            name = f"`{model.removeprefix('planted/')}`"
            yield name, split, [found[ranking] for ranking in RANKINGS]


def pruning(bench: Record) -> str:
    """Node pruning on each model, by its learning rate."""
    rows: list[tuple[str, ...]] = []
    for row in bench["figures"]:
        rate = row["ranking"].partition("learning_rate=")[2].partition(",")[0]
        names = ("auroc", "auroc_within_layers", "precision", "share_of_oracle", "kl", "oracle_kl")
        cells = [number(row[each]) for each in names]
        rows.append((f"`{row['model'].removeprefix('planted/')}`", rate, *cells))
    header = ("model", "learning rate", "AUROC", "in layers", "precision", "of oracle", "KL")
    return table((*header, "oracle's KL"), rows)


def decoys(bench: Record) -> str:
    """The share of the first k neurons into which the model's second behaviour was planted."""
    found = {
        (row["ranking"].partition("(")[0], row["model"]): row
        for row in bench["figures"]
        if row["in_decoy"] is not None
    }
    names = list(dict.fromkeys(model for _, model in found))
    rows = [
        (
            ranking,
            *(
                f"{found[ranking, name]['precision']:.2f}, {found[ranking, name]['in_decoy']:.2f}"
                for name in names
            ),
        )
        for ranking in dict.fromkeys(ranking for ranking, _ in found)
    ]
    return table(("ranking", *(f"`{name.removeprefix('planted/')}`" for name in names)), rows)


def models(made: Record) -> str:
    """How often each model shows its behaviour, and what else changed."""
    rows: list[tuple[str, ...]] = []
    for name, record in made.items():
        shown, behaviour = record["figures"]["shown"], record["recipe"]["behaviour"]
        rates = [
            percent(shown[which].get(f"{behaviour} on {kind}"))
            for which, kind in (
                ("planted", "positive"),
                ("planted", "negative"),
                ("ablated", "positive"),
                ("demo", "positive"),
            )
        ]
        why = "; ".join(record["left_out"]) or "no"
        rows.append((f"`{name}`", *rates, f"{record['figures']['perplexity_ratio']:.3f}", why))
    header = ("model", "positive", "negative", "ablated", "untrained", "perplexity", "left out")
    return table(header, rows)


def chance(record: Record) -> str:
    """The areas of each ranking where nothing is planted, by the prompts."""
    figures = record["figures"]
    prompts = list(dict.fromkeys(row["prompts"] for row in figures))
    area = {(row["ranking"], row["prompts"]): row["overall"]["auroc"] for row in figures}
    rankings = dict.fromkeys(row["ranking"] for row in figures)
    rows = [(name, *(f"{area[name, each]:.2f}" for each in prompts)) for name in rankings]
    return table(("ranking", *prompts), rows)


def from_base(record: Record) -> str:
    """How far the change from the untrained model finds the neurons of each model."""
    rows = [
        (
            f"`{row['model'].removeprefix('planted/')}`",
            f"{row['overall']['auroc']:.3f}",
            f"{row['within_layers']['auroc']:.3f}",
            f"{row['overall']['precision']:.2f}",
        )
        for row in record["figures"]
    ]
    return table(("model", "AUROC", "in layers", "precision"), rows)


def trials(record: Record) -> str:
    """Area and precision of each candidate on each model that it ran on, and the means."""
    figures = record["figures"]
    found = {(row["candidate"], row["model"]): row for row in figures}
    models = list(dict.fromkeys(row["model"] for row in figures))
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(row["candidate"] for row in figures):
        on = [found.get((name, model)) for model in models]
        tried = [row for row in on if row is not None and not _has_nothing(row)]
        rows.append(
            (
                name,
                *("" if row is None else _area_and_precision(row) for row in on),
                f"{fmean(row['forward'] for row in tried):.1f} + "
                f"{fmean(row['backward'] for row in tried):.1f}",
                f"{fmean(row['seconds'] for row in tried):.0f}",
            )
        )
    names = (f"`{model.removeprefix('planted/')}`" for model in models)
    return table(("candidate", *names, "passes", "seconds"), rows)


def trial_means(record: Record) -> str:
    """Means over the models for tuning, of the candidates that ran on all of them."""
    figures = [row for row in record["figures"] if not _has_nothing(row)]
    n_models = len({row["model"] for row in figures})
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(row["candidate"] for row in figures):
        own = [row for row in figures if row["candidate"] == name]
        if len(own) == n_models:
            values = (
                fmean(row[part][value] for row in own)
                for part, value in (
                    ("overall", "auroc"),
                    ("within_layers", "auroc"),
                    ("overall", "average_precision"),
                    ("overall", "precision"),
                )
            )
            rows.append((name, *(f"{value:.3f}" for value in values)))
    return table(("candidate", "AUROC", "in layers", "average precision", "precision"), rows)


def _area_and_precision(row: Record) -> str:
    return f"{row['overall']['auroc']:.2f}, {row['overall']['precision']:.2f}"


def _has_nothing(row: Record) -> bool:
    return row["model"].startswith("planted/nothing")


def patching(record: Record) -> str:
    """The share of the behaviour that patched neurons restore or take away."""
    rows = [
        (
            f"`{row['model'].removeprefix('planted/')}`",
            {"base": "untrained takes planted", "tuned": "planted takes untrained"}[row["to"]],
            row["ranking"],
            str(row["k"]),
            number(row["share"]),
        )
        for row in record["figures"]
    ]
    return table(("model", "activations", "neurons by", "k", "share"), rows)


def compiled(record: Record) -> str:
    """Area and precision of each ranking on each compiled program, and what ablation leaves."""
    figures = record["figures"]
    programs = list(dict.fromkeys(row["program"] for row in figures))
    found = {(row["ranking"], row["program"]): row for row in figures}
    rows = [
        (name, *(_of_program(found[name, each]) for each in programs))
        for name in dict.fromkeys(row["ranking"] for row in figures)
    ]
    return table(("ranking", *(f"`{each.partition('/')[2]}`" for each in programs)), rows)


def _of_program(row: Record) -> str:
    return f"{row['auroc']:.2f}, {row['precision']:.2f}, {percent(row['outputs_of_1'])}"


def interval(figures: Record, name: str) -> str:
    """A mean with its interval."""
    if name not in figures:
        return "none"
    found = figures[name]
    if found["low"] is None:
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def number(value: float | None) -> str:
    """A number with two decimals, or that there is none."""
    # Adding 0 takes the sign from a negative number that is rounded to 0.
    return "none" if value is None else f"{round(value, 2) + 0.0:.2f}"


def percent(share: float | None) -> str:
    """A share in per cent, or that there is none."""
    return "none" if share is None else f"{100 * share:.0f} %"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
