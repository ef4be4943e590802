"""A circuit: where its neurons lie, how it was found, and what the report does not show of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from cna_lens.report.sections import Section
from cna_lens.results.circuit import Circuit
from cna_lens.results.provenance import UniversalRecord
from cna_lens.results.rendering import per_layer, summary_of

FEW_PROMPTS = 30
STEERED_ANSWERS = "answers with steering"
"""Labels that tell what steering a circuit did; those of unsteered answers tell nothing of it."""

DIFFERENCES = ("contrast", "standardized", "output_weighted")
"""Rankings whose sign tells on which prompts a neuron is more active."""


def circuit_section(name: str, circuit: Circuit, kinds: Collection[str] = ()) -> Section:
    """The circuit, with caveats for each question that no other result of the report answers.

    Args:
        name: what the report calls it.
        circuit: the neurons.
        kinds: of the report's other results: "NullDistribution", `STEERED_ANSWERS`.
    """
    summary = summary_of(circuit)
    found = circuit.provenance
    prompts = {"positive prompts": found.positive, "negative prompts": found.negative}
    known = {side: record for side, record in prompts.items() if record is not None}
    rule = [("universal rule", _rule(found.universal))] if found.universal else []
    versions = ", ".join(f"{library} {version}" for library, version in found.versions)
    return Section(
        f"Circuit: {name}",
        lead=(f"{where(circuit)}, {_signs(circuit)}." if len(circuit) else "It has no neurons.",),
        facts=(
            *(fact for fact in summary.facts if fact[0] not in ("prompts", "weights")),
            *((side, str(record.count)) for side, record in known.items()),
            *rule,
        ),
        per_layer=per_layer(circuit, circuit.layout),
        tables=(summary.table,) if summary.table else (),
        caveats=tuple(_caveats(circuit, kinds)),
        provenance=(
            *([("weights", found.weights_sha256)] if found.weights_sha256 else []),
            *((side, f"tokens {record.sha256[:16]}") for side, record in known.items()),
            *([("versions", versions)] if versions else []),
        ),
    )


def where(circuit: Circuit) -> str:
    """How many neurons a circuit has, and which layer has most of them."""
    counts = per_layer(circuit, circuit.layout)
    layer = max(range(len(counts)), key=counts.__getitem__)
    return (
        f"{len(circuit)} of {circuit.layout.n_neurons} neurons, {counts[layer]} of them in layer "
        f"{layer} of 0 to {len(counts) - 1}"
    )


def _rule(universal: UniversalRecord) -> str:
    if universal.prompts is None:
        return "the neurons were given"
    if universal.fraction is None or universal.threshold is None:
        return f"found on {universal.prompts.count} diverse prompts by a rule that is not recorded"
    return (
        f"in the top {universal.fraction:.2%} of a {universal.scope or 'model'}'s activations by "
        f"{universal.by or 'magnitude'} on at least {universal.threshold:.0%} of "
        f"{universal.prompts.count} diverse prompts"
    )


def _signs(circuit: Circuit) -> str:
    positive = sum(score > 0 for score in circuit.scores)
    negative = len(circuit) - positive
    if circuit.provenance.rank in DIFFERENCES:
        return f"{positive} of them more active on prompts with the behaviour and {negative} less"
    return f"{positive} of them with a positive score and {negative} with a negative one"


def _caveats(circuit: Circuit, kinds: Collection[str]) -> Iterator[str]:
    found = circuit.provenance
    if not {STEERED_ANSWERS, "Comparison", "Necessity"} & set(kinds):
        yield (
            "These neurons differ between two sets of prompts. No result of this report changes "
            "them, so none shows that they cause anything."
        )
    if "NullDistribution" not in kinds:
        yield (
            "Some neurons always differ most. No result here counts how many would differ as much "
            "with shuffled labels; `null_distribution` does."
        )
    counts = [record.count for record in (found.positive, found.negative) if record]
    if "Stability" not in kinds:
        few = f"It was found from {min(counts)} prompts a side" if counts else "Its prompts are few"
        if not counts or min(counts) < FEW_PROMPTS:
            few = f"{few}: other prompts may well give other neurons."
        else:
            few = f"{few}. No result here shows which neurons other prompts would give."
        yield f"{few} `stability` finds the circuit again from resampled prompts."
    last = circuit.layout.n_layers - circuit.layout.n_layers // 4
    late = sum(neuron.layer >= last for neuron in circuit)
    if late * 2 > len(circuit) and "Localization" not in kinds:
        yield (
            f"{late} of {len(circuit)} neurons lie in the last quarter of the layers, where "
            "activations are largest for any prompts; `localization` tells the two apart."
        )
    if found.rank and found.universal is None:
        yield "Neurons that are strong on nearly every prompt were not excluded."
    if found.weights_sha256 is None:
        yield (
            "No hash of the weights was kept, so it is unknown on which weights of "
            f"{found.model or 'the model'} it was found."
        )
