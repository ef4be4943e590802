"""Evidence: what a result shows of itself, from the result or from its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cna_lens.evidence.curves import LayerCounts, NullCurves, StabilityCurves
from cna_lens.evidence.faithfulness import Necessity
from cna_lens.evidence.late_layers import Localization
from cna_lens.evidence.null import NullDistribution
from cna_lens.evidence.other_prompts import Stability
from cna_lens.evidence.overlap import Transfer
from cna_lens.report.pictures import can_draw, picture
from cna_lens.report.sections import Picture, Section
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Summary, summary_of

if TYPE_CHECKING:
    from cna_lens.viz.figures.style import ResultFigure

Drawn = Evidence | NullCurves | StabilityCurves | LayerCounts

WHOLE: Mapping[str, Callable[[Mapping[str, Any]], Drawn]] = {
    "Necessity": Necessity.from_record,
    "Transfer": Transfer.from_record,
}
"""The kinds whose files hold the whole result."""

CURVES: Mapping[str, Callable[[Mapping[str, Any]], Drawn]] = {
    "Localization": LayerCounts.from_record,
    "NullDistribution": NullCurves.from_record,
    "Stability": StabilityCurves.from_record,
}
"""The kinds whose files hold what their figures draw."""

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
    "Attestation": (
        "A match says that the canaries see no change: not what the model does elsewhere, nor that "
        "its reference was sound. Who knows the canaries and the checks can try to spare them.",
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
        drawn: what its figure draws; None where there is none, or the file is older than it.
    """

    kind: str
    summary: Summary
    drawn: Drawn | None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SavedEvidence:
        """What `Evidence.save` wrote."""
        kind = str(record["evidence"])
        return cls(kind, Summary.from_record(record["summary"]), _drawn(kind, record))


def _drawn(kind: str, record: Mapping[str, Any]) -> Drawn | None:
    if kind in WHOLE:
        return WHOLE[kind](record)
    return CURVES[kind](record["curves"]) if kind in CURVES and "curves" in record else None


def kind_of(evidence: Evidence | SavedEvidence) -> str:
    """The name of the result's type."""
    return evidence.kind if isinstance(evidence, SavedEvidence) else type(evidence).__name__


def evidence_section(name: str, evidence: Evidence | SavedEvidence) -> Section:
    """What the result shows of itself, with its figure."""
    kind = kind_of(evidence)
    saved = isinstance(evidence, SavedEvidence)
    summary = evidence.summary if saved else summary_of(evidence)
    return Section(
        f"{kind}: {name}",
        lead=(summary.title.removeprefix(f"{kind}: "),),
        facts=tuple(summary.facts),
        pictures=_pictures(evidence.drawn if saved else evidence),
        tables=(summary.table,) if summary.table else (),
        caveats=CAVEATS.get(kind, ()),
    )


def _pictures(drawn: Drawn | None) -> tuple[Picture, ...]:
    if not can_draw():
        return ()
    from cna_lens import viz

    figure: ResultFigure | None = None
    if isinstance(drawn, NullDistribution | NullCurves):
        figure = viz.null(drawn)
    elif isinstance(drawn, Stability | StabilityCurves):
        figure = viz.stability(drawn)
    elif isinstance(drawn, Transfer):
        figure = viz.overlap(drawn)
    elif isinstance(drawn, Necessity) and drawn.points:
        figure = viz.necessity(drawn)
    elif isinstance(drawn, Localization | LayerCounts):
        figure = viz.layers(drawn)
    return () if figure is None else (picture(figure),)
