"""Answers that a command should give."""

from contextlib import nullcontext

import cna_lens
from cna_lens import Circuit, steer

ASKED = ["w5 w6 w7", "w8 w9"]


def answers_of(model, prompts, circuit=None):
    """Answers unsteered, or with the circuit of a file scaled by -20."""
    scaled = nullcontext() if circuit is None else steer(model, Circuit.load(circuit), -20.0)
    with scaled:
        return cna_lens.generate(model, prompts, max_new_tokens=8)
