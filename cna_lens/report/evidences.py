"""Evidence: what a result shows of itself, from the result or from its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cna_lens.evidence.curves import LayerCounts, NullCurves, StabilityCurves
from cna_lens.evidence.faithfulness import Necessity
from cna_lens.evidence.overlap import Transfer
from cna_lens.report.pictures import figure
from cna_lens.report.sections import Section
from cna_lens.results.files import numbers_restored
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Summary, summary_of

Drawn = Evidence | NullCurves | StabilityCurves | LayerCounts


@dataclass(frozen=True)
class _Kind:
    """How a kind of evidence is shown.

    Attributes:
        caveat: what to bear in mind with it.
        view: in `cna_lens.viz`; None where it has no figure.
        read: what the figure draws, from the file's record.
        part: the entry of the record that holds it; None for the whole record.
        opening: the facts that are told right behind the headline, as sentences.
    """

    caveat: str
    view: str | None = None
    read: Callable[[Mapping[str, Any]], Drawn] | None = None
    part: str | None = None
    opening: tuple[str, ...] = ()


KINDS = {
    "NullDistribution": _Kind(
        "A small p-value says that a neuron differs between these prompts, not that it causes "
        "anything; with many prompts most neurons differ.",
        "null",
        NullCurves.from_record,
        "curves",
    ),
    "Stability": _Kind(
        "Resamples share prompts, so their circuits agree more than circuits of people with "
        "prompts of their own; disjoint sets show that agreement.",
        "stability",
        StabilityCurves.from_record,
        "curves",
    ),
    "Transfer": _Kind(
        "Circuits in the same layers share neurons by chance: compare with the column of random "
        "circuits by layer.",
        "overlap",
        Transfer.from_record,
    ),
    "Necessity": _Kind(
        "Faithfulness and completeness are shares of one metric; a circuit can keep the metric "
        "and lose the behaviour.",
        "necessity",
        Necessity.from_record,
    ),
    "Attestation": _Kind(
        "A match says that the canaries see no change. It does not say what the model does "
        "elsewhere, nor that its reference was sound. Whoever knows the canaries and the checks "
        "can try to spare them.",
        opening=("why", "limits"),
    ),
    "AnswersAttestation": _Kind(
        "A match says that the canaries are refused as before. It does not say what the endpoint "
        "answers to others.",
        opening=("why", "limits"),
    ),
    "SampledAttestation": _Kind(
        "A match says that harmful canaries are not refused more seldom than chance explains. It "
        "does not say what the endpoint answers to others, nor whether it refuses too much.",
        opening=("why", "limits"),
    ),
    "ServedAttestation": _Kind(
        "A match says that the canaries see no change of the model, and that the endpoint refuses "
        "them as before. It does not say that the endpoint runs this model.",
        opening=("why", "limits"),
    ),
    "IdentityAttestation": _Kind(
        "A match says that the canaries are answered as the genuine model answers them. It does "
        "not say whether the model refuses, nor what the endpoint answers to others.",
        opening=("why", "limits"),
    ),
    "Localization": _Kind(
        "Activations grow with depth: the rows with scaled activations and those of shuffled "
        "labels show how much of the share comes from that alone.",
        "layers",
        LayerCounts.from_record,
        "curves",
    ),
}


@dataclass(frozen=True)
class SavedEvidence:
    """Evidence as its file holds it.

    Attributes:
        kind: the name of the result's type, such as "Stability".
        summary: what it showed of itself.
        drawn: what its figure draws; None where it has no figure, or an older file holds no data
            for it.
    """

    kind: str
    summary: Summary
    drawn: Drawn | None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SavedEvidence:
        """Restore the evidence that `Evidence.save` wrote."""
        name = str(record["evidence"])
        kind, drawn = KINDS.get(name), None
        if (
            kind is not None
            and kind.read is not None
            and (kind.part is None or kind.part in record)
        ):
            drawn = kind.read(numbers_restored(record[kind.part] if kind.part else record))
        return cls(name, Summary.from_record(record["summary"]), drawn)


def kind_of(evidence: Evidence | SavedEvidence) -> str:
    """The name of the result's type."""
    return evidence.kind if isinstance(evidence, SavedEvidence) else type(evidence).__name__


def evidence_section(name: str, evidence: Evidence | SavedEvidence) -> Section:
    """What the result shows of itself, with its figure."""
    kind = kind_of(evidence)
    known = KINDS.get(kind)
    saved = isinstance(evidence, SavedEvidence)
    summary = evidence.summary if saved else summary_of(evidence)
    drawn = evidence.drawn if saved else evidence
    empty = drawn is None or (isinstance(drawn, Necessity) and not drawn.points)
    told = known.opening if known else ()
    facts = dict(summary.facts)
    opening = [f"{each.capitalize()}: {facts[each]}" for each in told if each in facts]
    return Section(
        f"{kind}: {name}",
        lead=(summary.title.removeprefix(f"{kind}: "), *opening),
        facts=tuple(each for each in summary.facts if each[0] not in told),
        pictures=figure(known.view, drawn) if known and known.view and not empty else (),
        tables=(summary.table,) if summary.table else (),
        caveats=(known.caveat,) if known else (),
    )
