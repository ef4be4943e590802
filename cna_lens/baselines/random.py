"""Random controls: the same number of neurons in the same layers, but not the circuit's."""

from __future__ import annotations

import torch

from cna_lens.circuit import Circuit, Provenance
from cna_lens.errors import InputError
from cna_lens.types import Neuron


def matched_random(circuit: Circuit, seed: int = 0) -> Circuit:
    """As many random neurons as the circuit has, layer by layer, and none of the circuit's own.

    What ablating these does is what ablating any neurons of these layers does; only what the
    circuit does beyond it is the circuit's.

    >>> circuit = Circuit((Neuron(0, 1), Neuron(1, 2)), (1.0, -1.0), Layout((4, 4)))
    >>> control = matched_random(circuit, seed=0)
    >>> [neuron.layer for neuron in control], set(control) & set(circuit)
    ([0, 1], set())

    Args:
        circuit: what to match.
        seed: another seed gives another control.

    Raises:
        InputError: a layer has too few neurons outside the circuit.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen: list[Neuron] = []
    for layer, indices in circuit.by_layer().items():
        others = torch.ones(circuit.layout.widths[layer], dtype=torch.bool)
        others[list(indices)] = False
        candidates = others.nonzero().squeeze(1)
        if len(candidates) < len(indices):
            raise InputError(
                f"layer {layer} has {len(candidates)} neurons outside the circuit, a control "
                f"needs {len(indices)}; take a smaller circuit"
            )
        order = torch.randperm(len(candidates), generator=generator)[: len(indices)]
        picked: list[int] = candidates[order].tolist()
        chosen.extend(Neuron(layer, index) for index in picked)
    provenance = Provenance(
        model=circuit.provenance.model,
        site=circuit.provenance.site,
        rank=f"matched_random(seed={seed})",
        k=len(chosen),
        versions=circuit.provenance.versions,
    )
    return Circuit(tuple(chosen), (0.0,) * len(chosen), circuit.layout, provenance)
