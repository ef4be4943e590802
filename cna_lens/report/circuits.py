"""A circuit: where its neurons lie, how it was found, and what is not known of it."""

from __future__ import annotations

from collections.abc import Collection

from cna_lens.report.sections import Section
from cna_lens.results.circuit import Circuit
from cna_lens.results.provenance import UniversalRecord
from cna_lens.results.rendering import per_layer, summary_of

FEW_PROMPTS = 30
DIFFERENCES = ("contrast", "standardized", "output_weighted")
"""Rankings whose sign says on which prompts a neuron is more active."""


def circuit_section(name: str, circuit: Circuit, kinds: Collection[str] = ()) -> Section:
    """The circuit, with caveats for what no other result of the report answers.

    Args:
        name: what the report calls it.
        circuit: the neurons.
        kinds: of the report's other results: "NullDistribution", "answers".
    """
    summary = summary_of(circuit)
    provenance = circuit.provenance
    prompts = [
        (f"{side} prompts", f"{record.count}, tokens {record.sha256[:16]}")
        for side, record in (("positive", provenance.positive), ("negative", provenance.negative))
        if record is not None
    ]
    facts = [fact for fact in summary.facts if fact[0] not in ("prompts", "weights")]
    known = [("weights", provenance.weights_sha256)] if provenance.weights_sha256 else []
    rule = [("universal rule", _rule(provenance.universal))] if provenance.universal else []
    versions = ", ".join(f"{library} {version}" for library, version in provenance.versions)
    return Section(
        f"Circuit: {name}",
        lead=(_where(circuit),) if len(circuit) else ("The circuit has no neurons.",),
        facts=(*facts, *known, *prompts, *rule, *([("versions", versions)] if versions else [])),
        per_layer=per_layer(circuit, circuit.layout),
        tables=(summary.table,) if summary.table else (),
        caveats=tuple(_caveats(circuit, kinds)),
    )


def _rule(universal: UniversalRecord) -> str:
    if universal.prompts is None:
        return "the neurons were given"
    if universal.fraction is None or universal.threshold is None:
        return f"found on {universal.prompts.count} diverse prompts, how is not recorded"
    return (
        f"in the top {universal.fraction:.2%} of a {universal.scope or 'model'}'s activations by "
        f"{universal.by or 'magnitude'} on at least {universal.threshold:.0%} of "
        f"{universal.prompts.count} diverse prompts"
    )


def _where(circuit: Circuit) -> str:
    counts = per_layer(circuit, circuit.layout)
    layer = max(range(len(counts)), key=counts.__getitem__)
    positive = sum(score > 0 for score in circuit.scores)
    negative = len(circuit) - positive
    signs = f"{positive} of them with a positive score and {negative} with a negative one"
    if circuit.provenance.rank in DIFFERENCES:
        signs = f"{positive} of them more active on prompts with the behaviour and {negative} less"
    return (
        f"{len(circuit)} of {circuit.layout.n_neurons} neurons, {signs}. Of the layers 0 to "
        f"{len(counts) - 1}, layer {layer} has most of them, {counts[layer]}."
    )


def _caveats(circuit: Circuit, kinds: Collection[str]) -> list[str]:
    provenance = circuit.provenance
    found: list[str] = []
    if not {"answers", "Comparison", "Necessity"} & set(kinds):
        found.append(
            "These neurons differ between two sets of prompts. That they cause anything is not "
            "shown here: no result of this report changes them."
        )
    if "NullDistribution" not in kinds:
        found.append(
            "Some neurons always differ most. How many would with shuffled labels is not among "
            "these results; `null_distribution` counts them."
        )
    counts = [record.count for record in (provenance.positive, provenance.negative) if record]
    if "Stability" not in kinds:
        few = f"It was found from {min(counts)} prompts a side" if counts else "Its prompts are few"
        if not counts or min(counts) < FEW_PROMPTS:
            few = f"{few}: other prompts may well give other neurons."
        else:
            few = f"{few}. What other prompts would have given is not among these results."
        found.append(f"{few} `stability` finds it again from resamples.")
    last = circuit.layout.n_layers - circuit.layout.n_layers // 4
    late = sum(neuron.layer >= last for neuron in circuit)
    if late * 2 > len(circuit) and "Localization" not in kinds:
        found.append(
            f"{late} of {len(circuit)} neurons lie in the last quarter of the layers, where "
            "activations are largest whatever the prompts; `localization` tells the two apart."
        )
    if provenance.rank and provenance.universal is None:
        found.append("Neurons that are strong on nearly every prompt were not excluded.")
    if provenance.weights_sha256 is None:
        found.append(
            "No hash of the weights was kept, so that it cannot be told on which weights of "
            f"{provenance.model or 'the model'} it was found."
        )
    return found
