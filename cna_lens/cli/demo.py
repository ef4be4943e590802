"""The main job on a real model: find a circuit, ablate it, compare with a control."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cna_lens.cli.conditions import (
    answer_under_conditions,
    cell_record,
    print_cells,
    print_files,
)
from cna_lens.cli.render import console, print_circuit, quiet_loading
from cna_lens.cli.report import say_where
from cna_lens.cli.runs import Option, command_line, save_run
from cna_lens.models import load_model
from cna_lens.pipeline import find_circuit
from cna_lens.prompt_sets import prompt_set
from cna_lens.report import token_section, verdict, write_report
from cna_lens.report.pictures import can_draw

MAX_NEW_TOKENS = 64


def run(
    model: str,
    out: Path,
    n_prompts: int,
    device: str | None = None,
    *,
    report: Path | None = None,
    keep_text: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Run the demo, print it as it goes, and write circuit, labels, run and report to `out`."""
    started = time.perf_counter()
    quiet_loading()
    loaded = load_model(model, device=device)
    discovery, evaluation = prompt_set("refusal"), prompt_set("refusal_evaluation")
    circuit = find_circuit(loaded, discovery.positive, discovery.negative, hash_weights=True)
    circuit.save(out / "circuit.json")
    if verbose:
        print_circuit(circuit)
    prompts = {
        "harmful": evaluation.positive[:n_prompts],
        "benign": evaluation.negative[:n_prompts],
    }
    cells = answer_under_conditions(
        loaded,
        circuit,
        0.0,
        prompts,
        out,
        max_new_tokens=MAX_NEW_TOKENS,
        keep_text=keep_text,
    )
    options: dict[str, Option] = {"model": model, "prompts": n_prompts, "out": out}
    options |= {"device": device, "keep_text": keep_text}
    save_run(
        out / "run.json",
        command_line("demo", options),
        loaded,
        prompts,
        {"multiplier": 0.0, "max_new_tokens": MAX_NEW_TOKENS},
        started,
    )
    page = report or out / "report.html"
    shown = [each[0] for each in prompts.values()]
    more = [token_section(loaded, circuit, shown)] if can_draw() else []
    files = [out / name for name in ("run.json", "circuit.json", "labels.jsonl")]
    write_report(files, page, title=f"cna-lens demo: {model}", more=more)
    if verbose:
        print_cells(cells)
        said = verdict([cell for cell in cells if cell.kind == "harmful"])
        console.print(f"\n{said}", highlight=False, markup=False)
        console.print(f"{time.perf_counter() - started:.0f} s in all.")
        print_files(out, keep_text=keep_text, others="circuit.json, run.json and ")
        say_where(page)
    return {
        "circuit": str(out / "circuit.json"),
        "report": str(page),
        "rows": [cell_record(cell) for cell in cells],
    }
