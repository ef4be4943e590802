"""The main job on a real model: find circuits, steer with them, compare with controls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cna_lens.cli.conditions import (
    CONTROL_SEED,
    UNSTEERED,
    Condition,
    answer_under_conditions,
    cell_record,
    print_cells,
    print_files,
    scaled,
)
from cna_lens.cli.render import console, print_circuit, quiet_loading
from cna_lens.cli.report import say_where
from cna_lens.cli.runs import Option, command_line, save_run
from cna_lens.discovery.activations.means import ActivationStats
from cna_lens.discovery.collection import collect
from cna_lens.discovery.pipeline import find_circuit
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.loading.load import load_model
from cna_lens.models.prompts.sets import prompt_set
from cna_lens.report.answers import verdicts
from cna_lens.report.document import write_report
from cna_lens.report.pictures import can_draw
from cna_lens.report.tokens import token_section
from cna_lens.results.circuit import Circuit
from cna_lens.steering.methods.controls import matched_random
from cna_lens.steering.methods.neurons import deviation_scaling

MAX_NEW_TOKENS = 64
RELP_FRACTION = 0.01
DEVIATION = -2.0
"""By this the distance from the benign means is multiplied."""

NOTE = (
    "circuit: the paper's, 0.1 % of the neurons, those whose activations differ most; m = 0 zeroes "
    "them at every token. RelP circuit: the 1 % that a gradient says refusals hang on most; d = -2 "
    "puts them, at the last token of the prompt, twice as far on the other side of their means on "
    "benign prompts."
)


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
    """Run the demo, print it as it goes, and write circuits, labels, run and report to `out`."""
    started = time.perf_counter()
    quiet_loading()
    loaded = load_model(model, device=device)
    discovery, evaluation = prompt_set("refusal"), prompt_set("refusal_evaluation")
    circuit = find_circuit(loaded, discovery.positive, discovery.negative, hash_weights=True)
    relp = find_circuit(
        loaded,
        discovery.positive,
        discovery.negative,
        rank="relp",
        sign="positive",
        fraction=RELP_FRACTION,
        hash_weights=True,
    )
    circuit.save(out / "circuit.json")
    relp.save(out / "relp.json")
    if verbose:
        print_circuit(circuit)
    prompts = {
        "harmful": evaluation.positive[:n_prompts],
        "benign": evaluation.negative[:n_prompts],
    }
    benign = collect(loaded, discovery.negative, progress=True)
    cells = answer_under_conditions(
        loaded,
        [UNSTEERED, *scaled(loaded, circuit, 0.0), *_moved(loaded, relp, benign)],
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
        {
            "multiplier": 0.0,
            "relp_fraction": RELP_FRACTION,
            "relp_deviation": DEVIATION,
            "max_new_tokens": MAX_NEW_TOKENS,
        },
        started,
    )
    page = report or out / "report.html"
    shown = [each[0] for each in prompts.values()]
    more = [token_section(loaded, circuit, shown)] if can_draw() else []
    files = [out / name for name in ("run.json", "circuit.json", "relp.json", "labels.jsonl")]
    write_report(files, page, title=f"cna-lens demo: {model}", more=more)
    if verbose:
        print_cells(cells, NOTE)
        for said in verdicts([cell for cell in cells if cell.kind == "harmful"]):
            console.print(f"\n{said}", highlight=False, markup=False)
        console.print(f"{time.perf_counter() - started:.0f} s in all.")
        print_files(out, keep_text=keep_text, others="circuit.json, relp.json, run.json and ")
        say_where(page)
    return {
        "circuit": str(out / "circuit.json"),
        "relp": str(out / "relp.json"),
        "report": str(page),
        "rows": [cell_record(cell) for cell in cells],
    }


def _moved(model: HookedModel, circuit: Circuit, benign: ActivationStats) -> list[Condition]:
    """The distance of a circuit from its benign means multiplied, and that of random neurons."""
    control = matched_random(circuit, seed=CONTROL_SEED)
    return [
        Condition(
            f"{name}, d = {DEVIATION:g}",
            f"{name.lower().replace(' ', '-')}-d",
            deviation_scaling(neurons, benign, DEVIATION, positions="last_prompt").at(model),
        )
        for name, neurons in (("RelP circuit", circuit), ("random control", control))
    ]
