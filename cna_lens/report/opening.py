"""The opening of a report: the answer in a few sentences and a figure."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.metrics.conditions import Answered
from cna_lens.report.answers import Effect, compliance, effects_of_kinds
from cna_lens.report.circuits import where
from cna_lens.report.pictures import figure
from cna_lens.report.sections import Section
from cna_lens.results.circuit import Circuit


def opening_section(
    circuits: Sequence[tuple[str, Circuit]], labels: Sequence[tuple[str, Sequence[Answered]]]
) -> Section | None:
    """Say which circuits were found, and what steering them did beside their random controls.

    One sentence tells how many answers refused, the next how many complied. Of several kinds of
    prompts, both take the kind that the unsteered model refuses most often. None where the labels
    hold no circuit with a control.

    Args:
        circuits: with the names that the report calls them.
        labels: labels of answers, with their names.
    """
    effects = [(answered, effects_of_kinds(answered)) for _, answered in labels]
    compared = [(answered, kinds) for answered, kinds in effects if kinds]
    if not compared:
        return None
    found = [f"{name} holds {where(each)}" for name, each in circuits if len(each)]
    return Section(
        "What was found",
        lead=(
            *([f"Circuit {'; circuit '.join(found)}."] if found else []),
            *(
                text
                for _, kinds in compared
                for most in (max(kinds, key=_refused_before),)
                for text in (_sentence(most), compliance(most))
                if text
            ),
        ),
        pictures=tuple(drawn for answered, _ in compared for drawn in figure("answers", answered)),
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
