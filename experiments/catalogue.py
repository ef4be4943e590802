"""Every experiment by name, in the paper's order; the settling ones follow."""

from __future__ import annotations

from collections.abc import Mapping

from experiments.paper import (
    figure1,
    figure2,
    figure3,
    strongreject,
    table1,
    table2,
    table3,
    table4,
    table6,
    table7,
    table8,
)
from experiments.questions import (
    controls,
    discovery_size,
    fraction,
    late_layers,
    rankings,
    sign,
    template,
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
        rankings,
        sign,
        late_layers,
        fraction,
        controls,
        discovery_size,
        template,
    )
}
