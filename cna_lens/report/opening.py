"""The opening of a report: the answer in a few sentences and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cna_lens.metrics.conditions import Answered
from cna_lens.report.answers import Effect, compliance, effects_of_kinds
from cna_lens.report.circuits import where
from cna_lens.report.pictures import figure
from cna_lens.report.sections import Section
from cna_lens.results.circuit import Circuit


def opening_section(
    circuits: Mapping[str, Circuit], labels: Mapping[str, Sequence[Answered]]
) -> Section | None:
    """Say which circuits were found, and what steering them did beside their random controls.

    One sentence tells how many answers refused, the next how many complied. Of several kinds of
    prompts, both take the kind that the unsteered model refuses most often. None where the labels
    hold no circuit with a control.

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
            *(
                text
                for kinds in compared.values()
                for effects in (max(kinds, key=_refused_before),)
                for text in (_sentence(effects), compliance(effects))
                if text
            ),
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
