"""The memory, GPUs and time that a model needs, as a table."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from cna_lens.cli.render import console
from cna_lens.models.estimate import Requirements

GIB = 2**30
_SIDE = 2048


def record(needs: Requirements, card: float, tflops: float | None) -> dict[str, Any]:
    """Return the requirements as plain data, in bytes and seconds.

    Args:
        needs: the requirements.
        card: GiB of one card.
        tflops: the rate of the hardware; None measures it here, where there is such hardware.
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
    """Print the record as a table, at most 80 columns wide."""
    table = Table(show_header=False, box=None, title=f"{escape(needs['model'])}, {needs['dtype']}")
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    cards = needs["cards"]
    fits = "none: a block does not fit" if cards is None else f"{cards}"
    for row in (
        ("parameters", f"{needs['n_parameters'] / 1e6:,.0f} million", ""),
        ("MLP neurons", f"{needs['n_neurons']:,}", f"in {needs['n_layers']} layers"),
        ("circuit of 0.1 %", f"{needs['k']:,}", "neurons"),
        ("weights", _size(needs["weights"]), ""),
        ("statistics", _size(needs["statistics"]), "sums over prompts, in float64"),
        ("batch", _size(needs["batch"]), "of discovery"),
        ("cache", _size(needs["cache"]), "keys and values, of generation"),
        ("decoding", _size(needs["decoding"]), "further memory of generation"),
        ("to find a circuit", _size(needs["discovery"]), "weights, statistics, batch"),
        ("to generate", _size(needs["generation"]), "weights, cache, decoding"),
        (f"GPUs of {needs['card_gib']:g} GiB", fits, "whole blocks, 10 % left free"),
    ):
        table.add_row(*row)
    rate, seconds = needs["tflops"], needs["seconds"]
    table.add_row(
        "time to find it",
        "?" if seconds is None else f"{seconds:,.1f} s",
        "no such GPU here: give --tflops" if rate is None else f"at {rate:.3g} TFLOP/s",
    )
    console.print(table)
    if needs["slower"] is not None:
        console.print(f"Slower here: {needs['slower']}.", highlight=False, markup=False)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:,.2f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:,.1f} MiB"


def _measured_tflops(needs: Requirements) -> float | None:
    """Measure one matrix product on this machine; a model comes close to its rate."""
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
