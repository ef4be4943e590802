"""Time of answers beside other busy processes, by how torch's threads wait.

    python -m experiments.benchmarks.busy

Every row is a process of its own, since OpenMP reads its settings once. A neighbour multiplies
matrices on all processors until it is stopped.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cna_lens.cli import SPIN_COUNT

WAITING: Mapping[str, Mapping[str, str]] = {
    "as torch does": {},
    "as the command line does": {"GOMP_SPINCOUNT": SPIN_COUNT},
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
}
NEIGHBOUR = """
import torch
x, w = torch.randn(512, 512), torch.randn(512, 512) / 25
while True:
    x = (x @ w).tanh()
"""
ANSWERS = """
import json, sys, time
import cna_lens
model = cna_lens.load_model("demo", device="cpu")
prompts = cna_lens.prompt_set("refusal").positive[:16]
cna_lens.generate(model, prompts, max_new_tokens=2)
seconds = []
for _ in range(int(sys.argv[1])):
    started = time.perf_counter()
    cna_lens.generate(model, prompts, max_new_tokens=24)
    seconds.append(time.perf_counter() - started)
print(json.dumps(seconds))
"""


def main(
    neighbours: Annotated[int, typer.Option(help="Up to how many processes beside it.")] = 1,
    rounds: Annotated[int, typer.Option(help="Processes of each row, in turn.")] = 2,
    repeats: Annotated[int, typer.Option(help="Measurements in each process.")] = 3,
) -> None:
    """Print the median and the range of seconds for 16 answers of 24 tokens on the demo model."""
    table = Table("threads wait", *(f"{n} beside it" for n in range(neighbours + 1)))
    cells: dict[str, list[str]] = {name: [] for name in WAITING}
    for n in range(neighbours + 1):
        with _beside(n):
            found: dict[str, list[float]] = {name: [] for name in WAITING}
            for _ in range(rounds):
                for name, environment in WAITING.items():
                    found[name] += _seconds(environment, repeats)
        for name, seconds in found.items():
            middle = statistics.median(seconds)
            cells[name].append(f"{middle:.1f} s [{min(seconds):.1f}, {max(seconds):.1f}]")
    for name, row in cells.items():
        table.add_row(name, *row)
    Console().print(table)


@contextmanager
def _beside(neighbours: int) -> Generator[None]:
    running = [subprocess.Popen([sys.executable, "-c", NEIGHBOUR]) for _ in range(neighbours)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def _seconds(environment: Mapping[str, str], repeats: int) -> list[float]:
    names = {name for settings in WAITING.values() for name in settings}
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", ANSWERS, str(repeats)],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    typer.run(main)
