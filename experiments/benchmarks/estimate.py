"""The memory that `cna-lens estimate` predicts for a model, beside the memory that it takes.

    python -m experiments.benchmarks.estimate --model demo --model gemma-3-270m-q4_k_m.gguf

Each model is loaded, searched and run in a process of its own, on the CPU; the figures go to
`experiments/results/estimate.json`. The measurement is the bytes of the weights and the memory of
the process beyond the loaded model; libraries and a tokenizer, which takes 350 MiB for the 262,144
tokens of Gemma 3, are no part of the estimate. Prompts are of random tokens that share nothing,
since a shared prefix is computed once and takes less, and nothing ends an answer early.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

import cna_lens
from experiments.benchmarks.memory_watch import MIB, growth_mib
from experiments.shared.random_models import find_in_halves, random_llama, random_prompts
from experiments.shared.result_files import RESULTS, Folder, environment, write_record

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
RETURN_AT = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""From this many bytes on, glibc returns freed memory to the system, so that the memory of a
process is the memory that it uses."""

app = typer.Typer()


@dataclass(frozen=True)
class Workload:
    """The work: the prompts of both sets together, their tokens, and those of an answer."""

    prompts: int = 64
    length: int = 64
    new_tokens: int = 64


@app.command()
def main(
    model: Annotated[list[str], typer.Option(help="Names for load_model.")],
    out: Folder = RESULTS,
) -> None:
    """Compare estimate and measurement of each model."""
    os.environ |= RETURN_AT
    workload = Workload()
    rows = [compared(name, workload) for name in model]
    record = {
        "command": "python -m experiments.benchmarks.estimate "
        + " ".join(f"--model {Path(name).name}" for name in model),
        "workload": asdict(workload),
        **environment(),
        "models": rows,
    }
    write_record(out / "estimate.json", record)
    table = Table("model", "what", "estimate", "measured", "error", title="MiB")
    for row in rows:
        for what, each in row["memory"].items():
            error = f"{each['error']:+.1%}"
            table.add_row(
                row["model"], what, f"{each['estimate']:.0f}", f"{each['measured']:.0f}", error
            )
    Console(width=80).print(table)


def compared(model: str, workload: Workload) -> dict[str, Any]:
    """The estimate of a model beside the memory that two processes of their own took."""
    needs = cna_lens.requirements(model, device="cpu", **asdict(workload))
    estimates = {"discovery": needs.discovery / MIB, "generation": needs.generation / MIB}
    memory: dict[str, dict[str, float]] = {}
    found: dict[str, Any] = {}
    for what, estimate in estimates.items():
        with get_context("spawn").Pool(1) as process:
            found = process.apply(measured, (model, what, workload))
        peak = found["mib"]
        memory[what] = {"estimate": estimate, "measured": peak, "error": estimate / peak - 1}
    return {
        "model": Path(model).name,
        "weights_sha256": found["weights_sha256"],
        "n_parameters": needs.n_parameters,
        "weights": needs.weights / MIB,
        "memory": memory,
    }


def measured(
    name: str, what: Literal["discovery", "generation"], workload: Workload
) -> dict[str, Any]:
    """Bytes of the weights, and the highest memory of this process beyond the loaded model.

    A small model goes first, so that PyTorch's one-time setup is not counted.
    """
    run = {"discovery": _discovery, "generation": _generation}[what]
    run(random_llama("small", **SMALL), Workload(4, 16, 4))
    model = cna_lens.load_model(name, device="cpu")
    _answer_without_end(model)
    grown = growth_mib(lambda: run(model, workload))
    weights = {each.data_ptr(): each.numel() * each.element_size() for each in model.parameters()}
    return {
        "mib": sum(weights.values()) / MIB + grown,
        "weights_sha256": cna_lens.weights_hash(model),
    }


def _answer_without_end(model: Any) -> None:
    model.tokenizer.eos_token_id = None
    model.original_model.generation_config.eos_token_id = None


def _discovery(model: Any, workload: Workload) -> None:
    find_in_halves(model, _prompts(model, workload))


def _generation(model: Any, workload: Workload) -> None:
    cna_lens.generate(model, _prompts(model, workload), max_new_tokens=workload.new_tokens)


def _prompts(model: Any, workload: Workload) -> list[list[int]]:
    return random_prompts(workload.prompts, workload.length, 0, int(model.cfg.d_vocab))


if __name__ == "__main__":
    app()
