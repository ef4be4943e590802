"""The study's figures, 80 columns wide, or 100 for those with four intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cna_lens import Estimate, Rate
from experiments.audit.analysis import Level
from experiments.audit.held_out import SCORE, VERDICT, Row
from experiments.audit.identifying import ALL, Reach


def show(level: Level) -> None:
    """Print the tables of one access level."""
    console = Console(width=80)
    title = f"{level.model}, {level.access}"
    table = Table("signal", "tampered variants", "AUROC", "caught", title=title)
    for row in level.rows:
        interval = "" if row.auroc.low is None else f" [{row.auroc.low:.2f}, {row.auroc.high:.2f}]"
        caught = f"{100 * row.caught.value:.0f} % of {row.caught.n}"
        table.add_row(row.signal, row.tampered, f"{row.auroc.value:.3f}{interval}", caught)
    console.print(table)
    median, longest = level.seconds
    for name, value in {
        "false alarms": str(level.false_alarms),
        "threshold": f"{level.threshold:.4g}",
        "behaviour's noise, nats": f"{level.noise:.2f}",
        "seconds, median and longest": f"{median:.1f}, {longest:.1f}",
        "missed": ", ".join(level.missed) or "none",
        "false alarms at": ", ".join(level.alarmed) or "none",
        "could not be audited": ", ".join(level.failed) or "none",
        **{f"verdicts, {side}": str(dict(given)) for side, given in level.verdicts.items()},
    }.items():
        console.print(f"{name}: {value}", highlight=False)


def show_held_out(found: Sequence[Row]) -> None:
    """Print, for each access and each way to leave variants out, what is found of those."""
    console = Console(width=100)
    for access, held_out in dict.fromkeys((row.access, row.held_out) for row in found):
        title = f"{access}: the {held_out} that is judged took no part in the threshold"
        columns = ("judged", "by", "attacks", "AUROC", "detected", "false alarms", "balanced")
        table = Table(*columns, title=title)
        for row in found:
            if (row.access, row.held_out) == (access, held_out):
                table.add_row(
                    row.of,
                    row.signal if row.signal in (SCORE, VERDICT) else f"{row.signal} alone",
                    row.attacks,
                    "-" if row.area is None else _share(row.area),
                    f"{_share(row.detected)} of {row.detected.n}",
                    f"{_share(row.false_alarms)} of {row.false_alarms.n}",
                    _share(row.balanced),
                )
        console.print(table)


def _share(found: Rate | Estimate) -> str:
    """A share with its interval, without the zeros before the points."""
    values = (found.value, found.low, found.high)
    value, low, high = (
        "?" if each is None else f"{each:.3f}".replace("0.", ".", 1) for each in values
    )
    return f"{value} [{low}, {high}]"


def show_evasion(
    found: Sequence[Mapping[str, Any]], untouched: Sequence[float], level: Level
) -> None:
    """Print the largest unseen strength of each attack, and its effect."""
    title = f"{level.access}: unseen at {level.threshold:.4g}; noise {level.noise:.2f} nats"
    table = Table("attack", "strength", "log-odds", "still refusing", title=title)
    table.add_row("none", "0", *_behaviour(untouched))
    for row in found:
        table.add_row(row["attack"], f"{row['strength']:.2f}", *_behaviour(row["log_odds"]))
    Console(width=80).print(table)


def show_reach(found: Sequence[Reach]) -> None:
    """Print what answers to sensitive canaries tell of each model, and of all together."""
    console = Console(width=100)
    shares = list(found[0].hidden)
    for model in dict.fromkeys(row.model for row in found):
        rows = [row for row in found if row.model == model]
        n_attacks, n_same = rows[0].detected.n, rows[0].false_alarms.n
        title = f"{model}: {n_attacks} attacks beyond noise, {n_same} times the same model"
        table = Table("by", "requests", "AUROC", "detected", "false alarms", title=title)
        mixed = Table("by", "requests", *shares, title="detected, by share of genuine answers")
        for row in rows:
            asked = (row.by, str(row.requests))
            table.add_row(*asked, *map(_share, (row.area, row.detected, row.false_alarms)))
            mixed.add_row(*asked, *(f"{row.hidden[each]:.2f}" for each in shares))
        console.print(table)
        console.print(mixed)
    if len({row.model for row in found}) > 1:
        found = [row for row in found if row.model != ALL]
    for model, name in {(row.model, name): None for row in found for name in row.alarms[row.model]}:
        rates = ", ".join(
            f"{row.by} {row.requests}: {row.alarms[model][name]:.2f}"
            for row in found
            if row.model == model
        )
        console.print(f"{model}, {name}: {rates}", highlight=False)


def _behaviour(log_odds: Sequence[float]) -> tuple[str, str]:
    mean = math.fsum(log_odds) / len(log_odds)
    refusing = sum(each > 0 for each in log_odds) / len(log_odds)
    return f"{mean:.2f}", f"{100 * refusing:.0f} %"
