"""Where a circuit's neurons are active in prompts, and what the strongest write."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.report.sections import Section
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Neuron

STRONGEST = 12
"""Neurons that the picker offers; the file carries a value of each for each token."""

WRITTEN = 3
"""Neurons whose promoted tokens are shown."""


def token_section(model: HookedModel, circuit: Circuit, prompts: Sequence[Prompt]) -> Section:
    """Prompts with their tokens coloured by the circuit's neurons, which a picker chooses.

    Besides, the tokens that the strongest neurons make likelier and less likely. Cost: one forward
    pass a prompt. It needs the extra `viz`.

    >>> circuit = Circuit((Neuron(1, 3),), (2.5,), tiny_layout)
    >>> len(token_section(tiny_model, circuit, [[5, 6, 7]]).views)
    2

    Raises:
        InputError: bad prompts, or an empty circuit.
        CircuitMismatchError: a circuit of a model of another shape.
        CnaLensError: the extra `viz` is not installed.
    """
    from cna_lens import viz

    plain = [neuron for neuron in circuit if isinstance(neuron, Neuron)][:WRITTEN]
    pages = [
        viz.tokens(model, circuit, prompts, strongest=STRONGEST),
        *(viz.promotes(model, neuron) for neuron in plain),
    ]
    return Section(
        "Tokens",
        lead=(
            "Pick a neuron: its activation colours each token, blue where positive, orange where "
            "negative. Below, what the strongest neurons write when they are active.",
        ),
        views=tuple(body for page in pages for body in page.bodies),
        caveats=(
            "A neuron's promoted tokens are its direct effect on the output alone; what later "
            "layers make of it is not in them.",
        ),
    )
