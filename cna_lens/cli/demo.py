"""Find circuits of a real model, steer them, and compare them with random controls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from cna_lens.cli.conditions import (
    UNSTEERED,
    Answering,
    Option,
    answer_under_conditions,
    beside_control,
    command_line,
)
from cna_lens.cli.options import Precision, load_quietly
from cna_lens.cli.rates import cell_record, print_cells, print_files
from cna_lens.cli.render import console, print_report_path
from cna_lens.discovery.collection import collect
from cna_lens.discovery.pipeline import find_circuit
from cna_lens.metrics.conditions import Answered
from cna_lens.models.prompts.sets import prompt_set
from cna_lens.report.answers import verdicts
from cna_lens.report.document import write_report
from cna_lens.report.pictures import can_draw
from cna_lens.report.tokens import token_section
from cna_lens.results.circuit import Circuit
from cna_lens.steering.methods.neurons import deviation_scaling
from cna_lens.steering.scaling import steer

MAX_NEW_TOKENS = 64
RELP_FRACTION = 0.01
DEVIATION = -2.0
"""Factor of the distance from the benign means."""

NOTES = {
    "circuit": "the paper's: the 0.1 % of the neurons whose activations differ most; m = 0 zeroes "
    "them at every token",
    "RelP circuit": "the 1 % of the neurons on which refusals depend most by RelP's gradient; "
    "d = -2 moves them, at the last token of the prompt, to the other side of their means on "
    "benign prompts, twice as far away",
}


def run(
    model: str,
    out: Path,
    n_prompts: int,
    device: str | None = None,
    *,
    dtype: Precision = "float32",
    report: Path | None = None,
    keep_text: bool = False,
    verbose: bool = True,
) -> dict[str, Any]:
    """Run the demo, write circuits, labels, run and report to `out`, and print the result."""
    started = time.perf_counter()
    loaded = load_quietly(model, device, dtype)
    discovery, evaluation = prompt_set("refusal"), prompt_set("refusal_evaluation")
    sets = discovery.positive, discovery.negative
    circuit = find_circuit(loaded, *sets, hash_weights=True)
    relp = find_circuit(
        loaded, *sets, rank="relp", sign="positive", fraction=RELP_FRACTION, hash_weights=True
    )
    circuit.save(out / "circuit.json")
    relp.save(out / "relp.json")
    prompts = {
        "harmful": evaluation.positive[:n_prompts],
        "benign": evaluation.negative[:n_prompts],
    }
    benign = collect(loaded, discovery.negative, progress=True)
    options: dict[str, Option] = {"model": model, "prompts": n_prompts, "out": out}
    options |= {"device": device, "dtype": dtype, "keep_text": keep_text}
    cells = answer_under_conditions(
        loaded,
        [
            UNSTEERED,
            *beside_control("circuit", circuit, "m = 0", lambda each: steer(loaded, each, 0.0)),
            *beside_control(
                "RelP circuit",
                relp,
                f"d = {DEVIATION:g}",
                lambda each: deviation_scaling(each, benign, DEVIATION, positions="last_prompt").at(
                    loaded
                ),
                file_suffix="-d",
            ),
        ],
        prompts,
        out,
        Answering(MAX_NEW_TOKENS),
        command=command_line("demo", options),
        settings={
            "multiplier": 0.0,
            "relp_fraction": RELP_FRACTION,
            "relp_deviation": DEVIATION,
        },
        keep_text=keep_text,
        started=started,
    )
    page = report or out / "report.html"
    shown = [each[0] for each in prompts.values()]
    more = [token_section(loaded, circuit, shown)] if can_draw() else []
    files = [out / name for name in ("run.json", "circuit.json", "relp.json", "labels.jsonl")]
    write_report(files, page, title=f"cna-lens demo: {model}", more=more)
    if verbose:
        _print_answer({"circuit": circuit, "RelP circuit": relp}, cells)
        print_cells(cells, NOTES)
        print_files(out, "circuit.json, relp.json, run.json", keep_text=keep_text)
        typer.echo(f"Neurons of the circuit: cna-lens show {out / 'circuit.json'}")
        print_report_path(page)
        _print_origin(circuit, time.perf_counter() - started)
    return {
        "circuit": str(out / "circuit.json"),
        "relp": str(out / "relp.json"),
        "report": str(page),
        "rows": [cell_record(cell) for cell in cells],
    }


def _print_answer(circuits: dict[str, Circuit], cells: list[Answered]) -> None:
    """Print for each circuit its size, and the refusals with it steered beside its control."""
    said = verdicts([cell for cell in cells if cell.kind == "harmful"])
    for (name, circuit), verdict in zip(circuits.items(), said, strict=True):
        layout, strongest = circuit.layout, circuit.neurons[0].label
        console.print(
            f"{name}: {len(circuit)} of {layout.n_neurons} MLP neurons, in "
            f"{len(circuit.by_layer())} of {layout.n_layers} layers, the strongest {strongest}. "
            f"{verdict}\n",
            highlight=False,
            markup=False,
        )


def _print_origin(circuit: Circuit, seconds: float) -> None:
    """Print the hash of the weights, the versions of the libraries, and the time it took."""
    found = circuit.provenance
    versions = ", ".join(f"{library} {version}" for library, version in found.versions)
    console.print(
        f"\nweights {(found.weights_sha256 or 'unknown')[:16]}; {versions}; {seconds:.0f} s",
        style="dim",
        highlight=False,
    )
