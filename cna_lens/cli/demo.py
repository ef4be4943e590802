"""The main job on a real model: find a circuit, ablate it, compare with a control."""

from __future__ import annotations

import time
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
from cna_lens.cli.render import console, print_circuit, quiet_loading
from cna_lens.models import load_model
from cna_lens.pipeline import find_circuit
from cna_lens.prompt_sets import prompt_set
from cna_lens.statistics import mcnemar

MAX_NEW_TOKENS = 64


def run(
    model: str,
    out: Path,
    n_prompts: int,
    device: str | None = None,
    *,
    keep_text: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Run the demo, print it as it goes, and write circuit.json and labels.jsonl to `out`."""
    started = time.perf_counter()
    quiet_loading()
    loaded = load_model(model, device=device)
    discovery, evaluation = prompt_set("refusal"), prompt_set("refusal_evaluation")
    circuit = find_circuit(loaded, discovery.positive, discovery.negative, hash_weights=True)
    circuit.save(out / "circuit.json")
    if verbose:
        print_circuit(circuit)
    cells = answer_under_conditions(
        loaded,
        circuit,
        0.0,
        {
            "harmful": evaluation.positive[:n_prompts],
            "benign": evaluation.negative[:n_prompts],
        },
        out,
        max_new_tokens=MAX_NEW_TOKENS,
        keep_text=keep_text,
    )
    if verbose:
        print_cells(cells)
        console.print(f"\n{_reading(cells, circuit)}", highlight=False)
        console.print(f"{time.perf_counter() - started:.0f} s in all.")
        print_files(out, keep_text=keep_text, others="circuit.json and ")
    return {"circuit": str(out / "circuit.json"), "rows": [cell_record(cell) for cell in cells]}


def _reading(cells: Sequence[Cell], circuit: Circuit) -> str:
    before, ablated, control = (cell.evaluation.refused for cell in cells if cell.kind == "harmful")
    return _verdict(before, ablated, control, circuit)


def _verdict(
    before: Sequence[bool], ablated: Sequence[bool], control: Sequence[bool], circuit: Circuit
) -> str:
    """What the figures say, in words, also where they say nothing."""
    p_circuit, p_control = mcnemar(before, ablated), mcnemar(before, control)
    changed = (
        f"Of {len(before)} harmful requests {sum(before)} were refused unsteered, {sum(ablated)} "
        f"with the {len(circuit)} neurons ablated (exact McNemar p = {p_circuit:.2g}), "
        f"{sum(control)} with the random control (p = {p_control:.2g}). "
    )
    if p_circuit >= 0.05:
        reading = (
            "So with this model and these prompts there is no effect of the ablation on refusals "
            "that chance does not explain."
        )
        if sum(before) < 6:
            reading += (
                " This small model hardly refuses to begin with: with fewer than 6 refusals no "
                "ablation could reach p < 0.05. The figures show the method at work, not that it "
                "works here."
            )
        return changed + reading
    direction = "fewer" if sum(ablated) < sum(before) else "more"
    if p_control < 0.05:
        return changed + (
            f"Ablating the circuit gives {direction} refusals, but so does changing random neurons "
            "of the same layers: this is no evidence for these neurons in particular."
        )
    return changed + (
        f"Ablating the circuit gives {direction} refusals than chance explains, and the random "
        "control does not. Look at the quality and at the benign prompts before believing it."
    )
