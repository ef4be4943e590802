"""What a model will need, as a table."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from rich.markup import escape
from rich.table import Table

from cna_lens.cli.render import console
from cna_lens.models.estimate import Requirements, requirements

Dtype = Literal["float32", "bfloat16", "float16"]
Device = Literal["cuda", "cpu"]

GIB = 2**30
_SIDE = 2048


def run(
    model: str,
    config: Path | None,
    dtype: Dtype,
    device: Device,
    *,
    prompts: int,
    length: int,
    new_tokens: int,
) -> Requirements:
    """The requirements by the words of the command line."""
    return requirements(
        model,
        config=config,
        dtype=getattr(torch, dtype),
        device=device,
        prompts=prompts,
        length=length,
        new_tokens=new_tokens,
    )


def record(needs: Requirements, card: float, tflops: float | None) -> dict[str, Any]:
    """The requirements as plain data, in bytes and seconds.

    Args:
        needs: the requirements.
        card: GiB of one card.
        tflops: the rate of the hardware, None to measure this machine's where it is of the kind.
    """
    rate = tflops or _measured_tflops(needs)
    plain = asdict(needs) | {"blocks": sum(needs.blocks), "n_layers": len(needs.blocks)}
    return plain | {
        "discovery": needs.discovery,
        "generation": needs.generation,
        "card_gib": card,
        "cards": needs.cards(int(card * GIB)),
        "tflops": rate,
        "seconds": None if rate is None else needs.seconds(rate * 1e12),
    }


def print_record(needs: dict[str, Any]) -> None:
    """A table of the record, 80 columns wide."""
    table = Table(show_header=False, box=None, title=f"{escape(needs['model'])}, {needs['dtype']}")
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    table.add_row("parameters", f"{needs['n_parameters'] / 1e6:,.0f} million", "")
    table.add_row("MLP neurons", f"{needs['n_neurons']:,}", f"in {needs['n_layers']} layers")
    table.add_row("circuit of 0.1 %", f"{needs['k']:,}", "neurons")
    for part, says in (
        ("weights", ""),
        ("statistics", "sums over prompts, in float64"),
        ("batch", "of discovery"),
        ("cache", "keys and values, of generation"),
        ("decoding", "what else generation holds"),
    ):
        table.add_row(part, _size(needs[part]), says)
    table.add_row("to find a circuit", _size(needs["discovery"]), "weights, statistics, batch")
    table.add_row("to generate", _size(needs["generation"]), "weights, cache, decoding")
    cards = needs["cards"]
    fits = "none: a block does not fit" if cards is None else f"{cards}"
    table.add_row(f"cards of {needs['card_gib']:g} GiB", fits, "blocks whole, 10 % left free")
    rate, seconds = needs["tflops"], needs["seconds"]
    table.add_row(
        "time to find it",
        "?" if seconds is None else f"{seconds:,.1f} s",
        "no such card here: give --tflops" if rate is None else f"at {rate:.3g} TFLOP/s",
    )
    console.print(table)
    if needs["slower"] is not None:
        console.print(f"Slower here: {needs['slower']}.", highlight=False, markup=False)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:,.2f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:,.1f} MiB"


def _measured_tflops(needs: Requirements) -> float | None:
    """The rate of one matrix product on this machine, which a model comes near to."""
    if needs.device == "cuda" and not torch.cuda.is_available():
        return None
    dtype = getattr(torch, needs.dtype)
    matrix = torch.ones(_SIDE, _SIDE, dtype=dtype, device=needs.device)
    times: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        times.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / min(times) / 1e12
