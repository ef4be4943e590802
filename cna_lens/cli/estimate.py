"""The memory, GPUs and time that a model needs, as a table."""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from rich.markup import escape
from rich.table import Table

from cna_lens.cli.render import console
from cna_lens.errors import InputError
from cna_lens.models.estimate import Requirements
from cna_lens.models.free_memory import free_memory
from cna_lens.models.inside.paged_weights import TRIAL_PASSES

GIB = 2**30
_SMALLEST_SIDE, _LARGEST_SIDE = 256, 2048
_LONG_ENOUGH = 0.05
"""Seconds of a matrix product that tell the rate."""
_TRIED = 2**28
_PART = 2**24


def record(
    needs: Requirements,
    card: float,
    tflops: float | None,
    memory: float | None = None,
    disk: float | None = None,
) -> dict[str, Any]:
    """Return the requirements as plain data, in bytes and seconds.

    Args:
        needs: the requirements.
        card: GiB of one card.
        tflops: the rate of the hardware; None measures it here, where there is such hardware.
        memory: free GiB for a model on the CPU; None asks this machine.
        disk: GiB/s at which weights are read; None measures it here, where weights are read.

    Raises:
        InputError: the memory, or the rate of the hardware or of the disk, is not a number above 0.
    """
    for option, given in (("--tflops", tflops), ("--memory", memory), ("--disk", disk)):
        if given is not None and not 0 < given < math.inf:
            raise InputError(f"{option} is {given}, expected a number above 0")
    rate = _measured_tflops(needs) if tflops is None else tflops
    plain = asdict(needs) | {"blocks": sum(needs.blocks), "n_layers": len(needs.blocks)}
    return plain | {
        "discovery": needs.discovery,
        "generation": needs.generation,
        "card_gib": card,
        "cards": needs.cards(int(card * GIB)),
        "tflops": rate,
        "seconds": None if rate is None else needs.seconds(rate * 1e12),
        **(_from_disk(needs, memory, disk) if needs.device == "cpu" else {}),
    }


def _from_disk(needs: Requirements, memory: float | None, disk: float | None) -> dict[str, Any]:
    """Return whether the weights fit the memory, and what reading them from the disk means."""
    free = free_memory() if memory is None else int(memory * GIB)
    read = needs.read_in_each_pass(free)
    if read and disk is None and needs.dtype == needs.file_dtype:
        disk = disk_rate(Path(needs.model)) / GIB
    seconds = None if not read or disk is None else read / GIB / disk
    found = {"memory": free, "read_in_each_pass": read, "disk_gib": disk, "read_seconds": seconds}
    if read:
        decoding = needs.decoding_from_disk
        found |= {"decoding": decoding, "generation": needs.weights + needs.cache + decoding}
    return found


def print_record(needs: dict[str, Any]) -> None:
    """Print the record as a table, at most 80 columns wide."""
    table = Table(show_header=False, box=None, title=f"{escape(needs['model'])}, {needs['dtype']}")
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
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
        *_places(needs),
    ):
        table.add_row(*row)
    rate, seconds = needs["tflops"], needs["seconds"]
    table.add_row(
        "time to find it",
        "?" if seconds is None else f"{seconds:,.1f} s",
        "no such GPU here: give --tflops" if rate is None else f"at {rate:.3g} TFLOP/s",
    )
    console.print(table)
    if needs.get("read_in_each_pass"):
        console.print(_what_reading_means(needs), highlight=False, markup=False)
    if needs["slower"] is not None:
        console.print(f"Slower here: {needs['slower']}.", highlight=False, markup=False)


def _places(needs: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Say where the weights fit: on how many cards, or in the memory."""
    if needs["device"] == "cpu":
        fits = "read from disk" if needs["read_in_each_pass"] else "holds the weights"
        return [("free memory", _size(needs["memory"]), fits)]
    cards = needs["cards"]
    count = "none: a block does not fit" if cards is None else f"{cards}"
    return [(f"GPUs of {needs['card_gib']:g} GiB", count, "whole blocks, 10 % left free")]


def _what_reading_means(needs: dict[str, Any]) -> str:
    """Say what it means that the weights do not fit the memory."""
    if needs["dtype"] != needs["file_dtype"]:
        fix = (
            f"give --dtype {needs['file_dtype']}"
            if needs["file_dtype"] is not None
            else "the configuration does not say which that is"
        )
        return (
            f"The memory does not hold the weights in {needs['dtype']}. Files can be read while "
            f"the model runs in their own precision alone: {fix}."
        )
    seconds = needs["read_seconds"]
    return (
        f"The memory does not hold the weights. Each pass over them reads "
        f"{_size(needs['read_in_each_pass'])} from the disk, {seconds:,.0f} s at "
        f"{needs['disk_gib']:.2g} GiB/s. Loading takes {TRIAL_PASSES} passes, a circuit one, and "
        "each token of the answers that are generated together one. This needs Linux."
    )


def disk_rate(model: Path) -> float:
    """Measure the bytes a second at which the disk reads a model's file.

    Where there is no such folder, a file of 256 MiB is written to the Hub's cache, read, deleted.
    """
    files = sorted(model.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    if files:
        return _read_rate(files[-1])
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(dir=folder) as made:
            path = Path(made) / "tried"
            with path.open("wb") as file:
                for _ in range(_TRIED // _PART):
                    file.write(os.urandom(_PART))
                file.flush()
                os.fsync(file.fileno())
            return _read_rate(path)
    except OSError as error:
        raise InputError(
            f"the rate of the disk cannot be measured in {folder} ({error}); give it with --disk"
        ) from error


def _read_rate(path: Path) -> float:
    with path.open("rb", buffering=0) as file:
        # Pages that are in memory already say nothing about the disk.
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started, read = time.perf_counter(), 0
        while read < _TRIED and (part := file.read(_PART)):
            read += len(part)
        return read / (time.perf_counter() - started)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / GIB:,.2f} GiB" if n_bytes >= GIB else f"{n_bytes / 2**20:,.1f} MiB"


def _measured_tflops(needs: Requirements) -> float | None:
    """Measure one matrix product on this machine; a model comes close to its rate."""
    if needs.device == "cuda" and not torch.cuda.is_available():
        return None
    side = _SMALLEST_SIDE
    # A processor without instructions for a precision takes minutes for the largest product.
    while (seconds := _product_seconds(side, needs)) < _LONG_ENOUGH and side < _LARGEST_SIDE:
        side *= 2
    return 2 * side**3 / seconds / 1e12


def _product_seconds(side: int, needs: Requirements) -> float:
    """The shortest of three products of square matrices."""
    dtype = getattr(torch, needs.dtype)
    matrix = torch.ones(side, side, dtype=dtype, device=needs.device)
    times: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        times.append(time.perf_counter() - started)
    return min(times)
