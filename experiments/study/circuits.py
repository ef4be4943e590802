"""Circuits in finished cells: the neurons found, and those found on resampled prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cna_lens import Circuit, Estimate, Layout
from experiments.study import paper
from experiments.study.cells import Cell, Discovery, Steering, once
from experiments.study.experiment import Results
from experiments.study.paper import TASKS
from experiments.study.readings import discovery, of_discovery
from experiments.study.reporting import percentiles
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources


def of_tasks(study: Study, _: Sources) -> tuple[str, ...]:
    """How the circuits of the three tasks differ from the paper's."""
    return (
        f"the top {study.top} neurons, the paper's {paper.TOP}",
        *of_discovery(study.discovery, "capitals", "agreement"),
        "intervals are percentiles over resampled prompts; n is the number of neurons",
    )


def task_cells(study: Study, subjects: Iterable[Subject]) -> list[Cell]:
    """The top neurons of each task on each model."""
    return [task_cell(study, subject, task) for subject in subjects for task in TASKS]


def task_cell(study: Study, subject: Subject, task: str) -> Cell:
    """The top neurons of a task."""
    prompts = study.discovery if task == "refusal" else task
    return circuit_cell(subject, discovery(study, prompts, k=study.top, chat=TASKS[task]))


def circuit_cell(subject: Subject, found: Discovery) -> Cell:
    """The circuit of a discovery, with its resamples."""
    return once("circuit", subject, Steering(discovery=found))


def circuit_of(values: dict[str, Any]) -> Circuit:
    """The circuit of a finished cell; scores are not kept."""
    layout = Layout(tuple(values["widths"]))
    neurons = tuple(layout.neuron(flat) for flat in values["neurons"])
    return Circuit(neurons, (0.0,) * len(neurons), layout)


def first_late(layout: Layout, n_layers: int) -> int:
    """The flat place at which the last `n_layers` layers begin."""
    return layout.starts[layout.n_layers - min(n_layers, layout.n_layers)]


def share_late(results: Results, cell: Cell, n_layers: int) -> Estimate:
    """The share of a circuit in the last layers, with the percentiles of its resamples."""
    start = first_late(Layout(tuple(results.of(cell)["widths"])), n_layers)
    return over_resamples(
        results, cell, lambda neurons: sum(flat >= start for flat in neurons) / len(neurons)
    )


def over_resamples(results: Results, cell: Cell, value: Callable[[list[int]], float]) -> Estimate:
    """A number of a circuit, with the percentiles of its resamples."""
    values = results.of(cell)
    resampled = [value(row) for row in values["resampled"] if row]
    return percentiles(resampled, value(values["neurons"]), len(values["neurons"]))


def compared(
    results: Results, cells: tuple[Cell, Cell], value: Callable[[set[int], set[int]], float]
) -> Estimate:
    """A number of two circuits, with the percentiles of their resamples, drawn together."""
    first, second = (results.of(cell) for cell in cells)
    resampled = [
        value(set(one), set(other))
        for one, other in zip(first["resampled"], second["resampled"], strict=True)
        if one and other
    ]
    point = value(set(first["neurons"]), set(second["neurons"]))
    return percentiles(resampled, point, len(first["neurons"]))
