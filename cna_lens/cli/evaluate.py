"""Label a model's answers to given prompts, unsteered and with a circuit scaled."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cna_lens.cli.conditions import (
    UNSTEERED,
    answer_under_conditions,
    cell_record,
    print_cells,
    print_files,
    scaled,
)
from cna_lens.cli.render import console, quiet_loading
from cna_lens.cli.runs import Option, command_line, save_run
from cna_lens.metrics.conditions import Answered
from cna_lens.models.loading.load import load_model
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.report.runs import Setting
from cna_lens.results.circuit import Circuit
from cna_lens.results.statistics import mcnemar


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
    sources: Mapping[str, Option],
) -> dict[str, Any]:
    """Answer the prompts, print rates, and write labels.jsonl and run.json to `out`.

    `sources` says where the prompts and the circuit come from, as the command was told.
    """
    started = time.perf_counter()
    quiet_loading()
    loaded = load_model(model, device=device)
    conditions = [UNSTEERED]
    if circuit is not None:
        conditions += scaled(loaded, circuit, multiplier, allow_other_model=allow_other_model)
    cells = answer_under_conditions(
        loaded,
        conditions,
        {"given": prompts},
        out,
        max_new_tokens=max_new_tokens,
        keep_text=keep_text,
    )
    settings: dict[str, Setting] = {"multiplier": multiplier, "max_new_tokens": max_new_tokens}
    options: dict[str, Option] = {"model": model, **sources, "out": out, "device": device}
    options |= {"allow_other_model": allow_other_model, "keep_text": keep_text}
    save_run(
        out / "run.json",
        command_line("evaluate", options | settings),
        loaded,
        {"given": prompts},
        settings,
        started,
    )
    changes = {cell.condition: mcnemar(*_refused(cells[0], cell)) for cell in cells[1:]}
    if verbose:
        print_cells(cells)
        for condition, p in changes.items():
            console.print(
                f"{condition}: exact McNemar p = {p:.2g} against unsteered", highlight=False
            )
        print_files(out, keep_text=keep_text, others="run.json and ")
    return {
        "labels": str(out / "labels.jsonl"),
        "rows": [cell_record(cell) for cell in cells],
        "mcnemar_p": changes,
    }


def _refused(before: Answered, after: Answered) -> tuple[list[bool], list[bool]]:
    return before.evaluation.refused, after.evaluation.refused
