"""Alternating runs, and the ratio between them pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm

import cna_lens
from cna_lens.models import HookedModel
from cna_lens.steering import Via


@dataclass(frozen=True)
class Measure:
    """One row of the benchmark.

    Attributes:
        name: of the two compared runs, or of the quantity.
        value: median of the pairwise ratios, or a quantity of its own.
        low: the smallest ratio seen.
        high: the largest ratio seen.
        unit: "ratio", "MiB", ...
        goal: the value to reach, in words.
        detail: the figures behind the value.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    goal: str
    detail: dict[str, Any]


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run by a clock, including the work that it queued on a GPU."""
    started = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def alternate(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run, taken in turn so that drift falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with tqdm(total=(repeats + warm_up) * len(runs), unit="run", leave=False) as bar:
        for turn in range(repeats + warm_up):
            for name, run in runs.items():
                bar.set_description(name)
                spent = seconds(run, clock)
                if turn >= warm_up:
                    times[name].append(spent)
                bar.update()
    return times


def ratio(name: str, times: Mapping[str, list[float]], over: str, under: str, goal: str) -> Measure:
    """The time of one run over that of another, pair by pair."""
    pairs = [a / b for a, b in zip(times[over], times[under], strict=True)]
    medians = {run: round(statistics.median(times[run]), 4) for run in (over, under)}
    return Measure(
        name=name,
        value=statistics.median(pairs),
        low=min(pairs),
        high=max(pairs),
        unit="ratio",
        goal=goal,
        detail={"median_seconds": medians, "pairs": len(pairs)},
    )


def quantity(name: str, values: float | list[float], unit: str, goal: str = "") -> Measure:
    """A figure of its own, or the median of several."""
    several = values if isinstance(values, list) else [values]
    return Measure(name, statistics.median(several), min(several), max(several), unit, goal, {})


def steered_generation(
    name: str,
    model: HookedModel,
    circuit: cna_lens.Circuit,
    answer: Callable[[], object],
    repeats: int,
) -> list[Measure]:
    """The time of answers steered by weights and by hooks over that of unsteered ones."""

    def steered(via: Via) -> None:
        with cna_lens.steer(model, circuit, 0.0, via=via):
            answer()

    goals: dict[Via, str] = {"weights": "at most 1.02", "hooks": "at most 1.10"}
    ways = {via: partial(steered, via) for via in goals}
    times = alternate({"unsteered": answer, **ways}, repeats)
    return [
        ratio(f"{name} steered by {via} / unsteered", times, via, "unsteered", goal)
        for via, goal in goals.items()
    ]
