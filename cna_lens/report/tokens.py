"""Where a circuit's neurons are active in prompts, and which tokens the strongest promote."""

from __future__ import annotations

from collections.abc import Sequence

from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.report.sections import Section
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Neuron

STRONGEST = 12
"""Neurons that the picker offers; the file holds a value of each for each token."""

WRITTEN = 3
"""Neurons whose promoted tokens are shown."""


def token_section(model: HookedModel, circuit: Circuit, prompts: Sequence[Prompt]) -> Section:
    """Show prompts with their tokens coloured by a neuron of the circuit that a picker chooses.

    Tables show the tokens that the strongest neurons make likelier and less likely. Cost: one
    forward pass a prompt. Needs the extra `viz`.

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
            "negative. The tables show the tokens that the strongest neurons promote when active.",
        ),
        views=tuple(body for page in pages for body in page.bodies),
        caveats=(
            "A neuron's promoted tokens are only its direct effect on the output, without its "
            "effect through later layers.",
        ),
    )
