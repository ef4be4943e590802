"""Every experiment by name: the paper's tables and figures in its order, then the questions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from experiments.study.experiment import Experiment

MODULES = {
    "paper": (
        *("table1", "table2", "table3", "table4", "table6", "table7", "table8"),
        *("figure1", "figure2", "figure3", "strongreject"),
    ),
    "questions": (
        *("rankings", "sign", "late_layers", "fraction", "controls", "discovery_size", "template"),
    ),
}

EXPERIMENTS: Mapping[str, Experiment] = {
    experiment.name: experiment
    for folder, modules in MODULES.items()
    for module in modules
    for experiment in (import_module(f"experiments.{folder}.{module}").EXPERIMENT,)
}
