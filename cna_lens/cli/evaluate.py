"""Label a model's answers to given prompts, unsteered and with a circuit scaled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cna_lens.circuit import Circuit
from cna_lens.cli.conditions import (
    Cell,
    answer_under_conditions,
    cell_record,
    print_cells,
    print_files,
)
from cna_lens.cli.render import console, quiet_loading
from cna_lens.models import load_model
from cna_lens.prompts import Prompt
from cna_lens.statistics import mcnemar


def run(
    model: str,
    prompts: Sequence[Prompt],
    out: Path,
    circuit: Circuit | None,
    multiplier: float,
    *,
    max_new_tokens: int,
    device: str | None = None,
    keep_text: bool = False,
    allow_other_model: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Answer the prompts, print rates, and write labels.jsonl to `out`."""
    quiet_loading()
    cells = answer_under_conditions(
        load_model(model, device=device),
        circuit,
        multiplier,
        {"given": prompts},
        out,
        max_new_tokens=max_new_tokens,
        keep_text=keep_text,
        allow_other_model=allow_other_model,
    )
    changes = {cell.condition: mcnemar(*_refused(cells[0], cell)) for cell in cells[1:]}
    if verbose:
        print_cells(cells)
        for condition, p in changes.items():
            console.print(
                f"{condition}: exact McNemar p = {p:.2g} against unsteered", highlight=False
            )
        print_files(out, keep_text=keep_text)
    return {
        "labels": str(out / "labels.jsonl"),
        "rows": [cell_record(cell) for cell in cells],
        "mcnemar_p": changes,
    }


def _refused(before: Cell, after: Cell) -> tuple[list[bool], list[bool]]:
    return before.evaluation.refused, after.evaluation.refused
