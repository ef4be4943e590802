"""The circuit and the fingerprint of `guarded`, a tiny model that refuses canaries."""

import pytest


@pytest.fixture(scope="session")
def circuit(guarded_circuit):
    return guarded_circuit


@pytest.fixture(scope="session")
def fingerprint(guarded_fingerprint):
    return guarded_fingerprint
