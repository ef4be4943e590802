"""Fingerprints of two tiny models that refuse canaries, and the circuit of one of them."""

import pytest
from canary_models import CANARIES
from reasoner import CANNOT, begins_with_i

from cna_lens import audit


@pytest.fixture(scope="session")
def circuit(guarded_circuit):
    return guarded_circuit


@pytest.fixture(scope="session")
def fingerprint(guarded_fingerprint):
    return guarded_fingerprint


@pytest.fixture(scope="session")
def says_i_cannot():
    """A model whose refusals have two words, and its fingerprint."""
    model = begins_with_i(CANNOT)
    taken = audit.fingerprint(model, None, CANARIES, rankings=("contrast",), progress=False)
    return model, taken
