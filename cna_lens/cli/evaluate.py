"""Label a model's answers to given prompts, unsteered and with a circuit scaled."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cna_lens.cli.conditions import (
    UNSTEERED,
    Option,
    answer_under_conditions,
    beside_control,
    cell_record,
    print_cells,
    print_files,
    save_run,
)
from cna_lens.cli.options import load_quietly
from cna_lens.cli.render import console
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.report.runs import Setting
from cna_lens.results.circuit import Circuit
from cna_lens.results.statistics import mcnemar
from cna_lens.steering.scaling import steer


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

    `sources` has the options by which the command was given its prompts and its circuit.
    """
    started = time.perf_counter()
    loaded = load_quietly(model, device)
    conditions = [UNSTEERED]
    if circuit is not None:
        conditions += beside_control(
            "circuit",
            circuit,
            f"m = {multiplier:g}",
            lambda each: steer(loaded, each, multiplier, allow_other_model=allow_other_model),
        )
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
        "evaluate",
        options | settings,
        loaded,
        {"given": prompts},
        settings,
        started,
    )
    refused = [cell.evaluation.refused for cell in cells]
    changes = {
        cell.condition: mcnemar(refused[0], after)
        for cell, after in zip(cells[1:], refused[1:], strict=True)
    }
    if verbose:
        print_cells(cells)
        for condition, p in changes.items():
            console.print(
                f"{condition}: exact McNemar p = {p:.2g} against unsteered", highlight=False
            )
        print_files(out, "run.json", keep_text=keep_text)
    return {
        "labels": str(out / "labels.jsonl"),
        "rows": [cell_record(cell) for cell in cells],
        "mcnemar_p": changes,
    }
