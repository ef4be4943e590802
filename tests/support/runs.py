"""Which values of a test `make test` tries; CI tries all, with `make test-long`."""

import pytest


def every(values, *, quick):
    """All values, of which `make test` tries the quick ones alone."""
    known = [str(value) for value in values]
    assert set(quick) <= set(known), f"{quick} are not all among {known}"
    return [
        value if str(value) in quick else pytest.param(value, marks=pytest.mark.long)
        for value in values
    ]
