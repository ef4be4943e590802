"""Table 4: one request with the circuit at m = 1, 0 and 2, base and instruct.

    python -m experiments table4 --config smollm2

The answers are shown while they are generated; they are stored only with --keep-text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cna_lens import Estimate, wilson
from experiments.study.cells import UNSTEERED, Cell, Steering, asked
from experiments.study.experiment import Experiment, Results
from experiments.study.readings import cna, of_discovery
from experiments.study.reporting import Row
from experiments.study.settings import Role, Study, Subject
from experiments.study.sources import Sources

ROLES: tuple[Role, ...] = ("base", "instruct")


def conditions(study: Study) -> dict[float, Steering]:
    """The steering for each multiplier."""
    ablated = cna(study, study.discovery)
    return {1.0: UNSTEERED, 0.0: ablated, 2.0: replace(ablated, multiplier=2.0)}


def cells(study: Study, sources: Sources) -> list[Cell]:
    """Each multiplier on each model."""
    return [
        cell
        for subject in study.subjects(*ROLES)
        for steering in conditions(study).values()
        for cell in _of(study, sources, subject, steering)
    ]


def _of(study: Study, sources: Sources, subject: Subject, steering: Steering) -> list[Cell]:
    return asked(study, sources, "shown", subject, steering, limit=1)


def found(results: Results) -> Iterator[Row]:
    """Labels of the answers; the paper prints texts."""
    for subject in results.study.subjects(*ROLES):
        for multiplier, steering in conditions(results.study).items():
            mine = _of(results.study, results.sources, subject, steering)
            (refused,), (quality,), (words,) = (
                results.joined(mine, name) for name in ("refused", "quality", "words")
            )
            at = f"m = {multiplier:g}"
            yield Row(subject.label, f"{at}: refused", wilson([refused]))
            yield Row(subject.label, f"{at}: quality", _one(quality))
            yield Row(subject.label, f"{at}: words", _one(words))


def _one(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(float(value), None, None, 1)


EXPERIMENT = Experiment(
    "table4",
    "one request with the circuit multiplied with 1, 0 and 2; answers are shown as they come",
    cells,
    found,
    lambda study, _: (
        "the paper prints answers to a prompt of its own; here are labels of those to the "
        f"first request of {study.evaluation}, and answers only on the screen",
        f"answers of at most {study.max_new_tokens} tokens",
        *of_discovery(study.discovery),
    ),
    roles=ROLES,
)
