"""Evidence: what a result shows of itself, from the result or from its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cna_lens.evidence import Localization, Necessity, NullDistribution, Stability, Transfer
from cna_lens.evidence.records import Evidence
from cna_lens.rendering import Summary, summary_of
from cna_lens.report.pictures import can_draw, picture
from cna_lens.report.sections import Picture, Section

if TYPE_CHECKING:
    from cna_lens.viz import ResultFigure

READ_BACK: Mapping[str, Callable[[Mapping[str, Any]], Evidence]] = {
    "Necessity": Necessity.from_record,
    "Transfer": Transfer.from_record,
}
"""The kinds whose files hold all that their figures show."""

CAVEATS = {
    "NullDistribution": (
        "A small p-value says that a neuron differs between these prompts, not that it causes "
        "anything; with many prompts most neurons differ.",
    ),
    "Stability": (
        "Resamples share prompts, so that their circuits agree more than circuits of people with "
        "prompts of their own; disjoint sets show that.",
    ),
    "Transfer": (
        "Circuits in the same layers share neurons by chance: compare with the column of random "
        "circuits by layer.",
    ),
    "Necessity": (
        "Faithfulness and completeness are shares of one metric; a circuit can keep it and lose "
        "the behaviour.",
    ),
    "Localization": (
        "Activations grow with depth: the rows with scaled activations, and those of shuffled "
        "labels, say what of the share is that alone.",
    ),
}


@dataclass(frozen=True)
class SavedEvidence:
    """Evidence as its file holds it.

    Attributes:
        kind: the name of the result's type, such as "Stability".
        summary: what it showed of itself.
        record: the rest of the file.
    """

    kind: str
    summary: Summary
    record: Mapping[str, Any]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SavedEvidence:
        """What `Evidence.save` wrote."""
        return cls(str(record["evidence"]), Summary.from_record(record["summary"]), record)


def kind_of(evidence: Evidence | SavedEvidence) -> str:
    """The name of the result's type."""
    return evidence.kind if isinstance(evidence, SavedEvidence) else type(evidence).__name__


def evidence_section(name: str, evidence: Evidence | SavedEvidence) -> Section:
    """What the result shows of itself, with its figure where there is all it needs."""
    kind = kind_of(evidence)
    result: Evidence | None
    if isinstance(evidence, SavedEvidence):
        summary = evidence.summary
        result = READ_BACK[kind](evidence.record) if kind in READ_BACK else None
    else:
        summary, result = summary_of(evidence), evidence
    return Section(
        f"{kind}: {name}",
        lead=(summary.title.removeprefix(f"{kind}: "),),
        facts=tuple(summary.facts),
        pictures=() if result is None else _pictures(result),
        tables=(summary.table,) if summary.table else (),
        caveats=CAVEATS.get(kind, ()),
    )


def _pictures(result: Evidence) -> tuple[Picture, ...]:
    if not can_draw():
        return ()
    from cna_lens import viz

    figure: ResultFigure | None = None
    if isinstance(result, NullDistribution):
        figure = viz.null(result)
    elif isinstance(result, Stability):
        figure = viz.stability(result)
    elif isinstance(result, Transfer):
        figure = viz.overlap(result)
    elif isinstance(result, Necessity) and result.points:
        figure = viz.necessity(result)
    elif isinstance(result, Localization):
        figure = viz.layers(result)
    return () if figure is None else (picture(figure),)
