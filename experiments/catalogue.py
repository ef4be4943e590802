"""Every experiment by name, in the paper's order; the settling ones follow."""

from __future__ import annotations

from collections.abc import Mapping

from experiments import (
    figure1,
    figure2,
    figure3,
    settle_controls,
    settle_discovery_size,
    settle_fraction,
    settle_late_layers,
    settle_rankings,
    settle_sign,
    settle_template,
    strongreject,
    table1,
    table2,
    table3,
    table4,
    table6,
    table7,
    table8,
)
from experiments.study.experiment import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        table1,
        table2,
        table3,
        table4,
        table6,
        table7,
        table8,
        figure1,
        figure2,
        figure3,
        strongreject,
        settle_rankings,
        settle_sign,
        settle_late_layers,
        settle_fraction,
        settle_controls,
        settle_discovery_size,
        settle_template,
    )
}
