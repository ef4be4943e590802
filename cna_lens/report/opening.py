"""The opening of a report: the answer in two sentences and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cna_lens.metrics.conditions import Answered
from cna_lens.report.answers import Effect, effects_of_kinds
from cna_lens.report.circuits import where
from cna_lens.report.pictures import figure
from cna_lens.report.sections import Section
from cna_lens.results.circuit import Circuit


def opening_section(
    circuits: Mapping[str, Circuit], labels: Mapping[str, Sequence[Answered]]
) -> Section | None:
    """Say which circuits were found, and what steering them did beside their random controls.

    Of several kinds of prompts, the second sentence takes the kind that the unsteered model
    refuses most often. None where the labels hold no circuit with a control.

    Args:
        circuits: by the names that the report calls them.
        labels: labels of answers, by name.
    """
    effects = {name: effects_of_kinds(answered) for name, answered in labels.items()}
    compared = {name: kinds for name, kinds in effects.items() if kinds}
    if not compared:
        return None
    found = [f"{name} holds {where(each)}" for name, each in circuits.items() if len(each)]
    return Section(
        "What was found",
        lead=(
            *([f"Circuit {'; circuit '.join(found)}."] if found else []),
            *(_sentence(max(kinds, key=_refused_before)) for kinds in compared.values()),
        ),
        pictures=tuple(drawn for name in compared for drawn in figure("answers", labels[name])),
    )


def _refused_before(effects: Sequence[Effect]) -> int:
    return effects[0].refusals[0]


def _sentence(effects: Sequence[Effect]) -> str:
    tests = ("exact McNemar ", *("" for _ in effects[1:]))
    said = "; ".join(
        f"{effect.counted(test)}: {effect.reading()[0]}"
        for effect, test in zip(effects, tests, strict=True)
    )
    return f"{effects[0].before()}, {said}."
