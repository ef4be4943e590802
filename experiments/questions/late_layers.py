"""Is there more of refusal in the late layers than there is of anything?

    python -m experiments settle_late_layers --config smollm2

Activations grow with depth, so that the largest differences lie late for any task. The share of the
circuit in late layers therefore stands beside that of circuits from shuffled labels, and both once
more in units of each layer's scale.
"""

from __future__ import annotations

from collections.abc import Iterator

from cna_lens import Estimate
from experiments.study.cells import Cell, Steering, once
from experiments.study.experiment import Experiment, Finding, Results
from experiments.study.paper import TASKS
from experiments.study.readings import discovery, of_discovery
from experiments.study.reporting import Row, interval
from experiments.study.settings import Study, Subject
from experiments.study.sources import Sources

REGIONS = ("last 3 layers", "last quarter")


def _cell(study: Study, subject: Subject, task: str) -> Cell:
    prompts = study.discovery if task == "refusal" else task
    filtered = "none" if study.universal_filter == "none" else "before"
    found = discovery(study, prompts, k=study.top, chat=TASKS[task], universal=filtered)
    return once("localization", subject, Steering(discovery=found))


def cells(study: Study, _: Sources) -> list[Cell]:
    """Each task on each instruct model."""
    return [_cell(study, subject, task) for subject in study.subjects("instruct") for task in TASKS]


def found(results: Results) -> Iterator[Finding]:
    """Shares in late layers, as found and for shuffled labels, by activation and by scale."""
    for subject in results.study.subjects("instruct"):
        parts: list[str] = []
        for task in TASKS:
            for late in results.of(_cell(results.study, subject, task))["shares"]:
                if late["region"] not in REGIONS:
                    continue
                share, shuffled = Estimate(**late["share"]), Estimate(**late["shuffled"])
                unit = "by the layer's scale" if late["scaled"] else "as they are"
                name = f"{task}, {late['region']}, {unit}"
                yield Row(subject.label, name, share, share=True)
                yield Row(subject.label, f"{name}, shuffled", shuffled, share=True)
                if task == "refusal" and late["region"] == REGIONS[0]:
                    parts.append(_sentence(unit, share, shuffled))
        if parts:
            yield f"{subject.label}, {REGIONS[0]}: {'; '.join(parts)}."


def _sentence(unit: str, share: Estimate, shuffled: Estimate) -> str:
    beyond = shuffled.high is not None and share.value > shuffled.high
    return (
        f"activations {unit}, {interval(share, share=True)} of the refusal circuit, "
        f"{'more' if beyond else 'no more'} than from shuffled labels, "
        f"{interval(shuffled, share=True)}"
    )


EXPERIMENT = Experiment(
    "settle_late_layers",
    "Is there more of refusal in the late layers than there is of anything?",
    cells,
    found,
    lambda study, _: (
        "the paper shuffles no labels and takes activations as they are; n is the number of "
        "resamples or shufflings",
        *of_discovery(study.discovery, "capitals", "agreement"),
    ),
)
