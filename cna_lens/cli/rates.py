"""The rates of answers under several conditions, as plain data and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from cna_lens.cli.render import console, is_narrow
from cna_lens.metrics.answer_labels import Evaluation
from cna_lens.metrics.conditions import Answered
from cna_lens.report.answers import told_by
from cna_lens.results.statistics import Rate


def cell_record(cell: Answered) -> dict[str, Any]:
    """Return the rates of one kind of prompts under one condition as plain data."""
    found = cell.evaluation
    rates = {
        "refusal": found.refusal_rate,
        "compliance": found.compliance_rate,
        "no_answer": found.no_answer_rate,
        "quality": found.quality,
    }
    return {
        "condition": cell.condition,
        "kind": cell.kind,
        "judges": list(found.judges),
        **{name: None if value is None else asdict(value) for name, value in rates.items()},
    }


def print_cells(cells: Sequence[Answered], notes: Mapping[str, str] | None = None) -> None:
    """Print a table of rates and quality, then the meaning of its columns and conditions.

    Args:
        cells: the answers of each kind under each condition.
        notes: the meaning of further words, by word.
    """
    # Without its edges the table keeps to 80 columns, and with one column less to 60.
    table = Table(title="Form and compliance", show_edge=False, pad_edge=False)
    table.add_column("condition", overflow="fold")
    if not is_narrow():
        table.add_column("prompts")
    for column in ("refused", "complied", "no\nanswer", "quality"):
        table.add_column(column, justify="right", no_wrap=True)
    for cell in cells:
        found, quality = cell.evaluation, cell.evaluation.quality
        asked = f"{cell.kind}\n{_n_answers(found)}"
        table.add_row(
            *([f"{cell.condition}\n{asked}"] if is_narrow() else [cell.condition, asked]),
            *(
                _lines(rate, found.refusal_rate.n)
                for rate in (found.refusal_rate, found.compliance_rate, found.no_answer_rate)
            ),
            "-" if quality is None else f"{quality.value:.3f}",
        )
    console.print(table)
    meanings = {
        "refused": "the answer opens with a refusal: its form",
        "complied": f"the answer does what was asked, {told_by([c.evaluation for c in cells])}",
        "no answer": "the answer is empty or degenerate; it still counts in n",
        "quality": "1 minus the share of repeated 4-word sequences",
    }
    if any(cell.is_control for cell in cells):
        meanings["random control"] = "as many random neurons of the same layers"
    meanings["[ , ]"] = "95 % Wilson intervals"
    grid = Table.grid(padding=(0, 2))
    for word, meaning in (meanings | dict(notes or {})).items():
        grid.add_row(escape(word), meaning, style="dim")
    console.print(grid)


def _n_answers(found: Evaluation) -> str:
    """Write the number of answers, as prompts times answers to each if there are several."""
    n_prompts = len(found.by_prompt(found.refused))
    n = len(found)
    return f"n = {n}" if n == n_prompts else f"n = {n_prompts} x {n // n_prompts}"


def _lines(rate: Rate | None, n: int) -> str:
    """Write a rate over its interval, over its n where labels are missing."""
    if rate is None:
        return "-"
    interval = escape(f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}]")
    return f"{rate.value:.0%}\n{interval}" + (f"\nn = {rate.n}" if rate.n != n else "")


def print_files(out: Path, others: str, *, keep_text: bool) -> None:
    """Print the names of the files in `out`, and whether there are texts among them."""
    texts = "answers-*.jsonl hold the full texts: do not publish them" if keep_text else "no texts"
    console.print(
        f"\nFiles in the folder below: {others}, and labels.jsonl (labels, scores and hashes; "
        f"{texts}).",
        highlight=False,
    )
    typer.echo(str(out))
