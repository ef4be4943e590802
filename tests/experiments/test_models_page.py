from pathlib import Path

import families
import pytest

from experiments.families.families import FAMILIES
from experiments.families.mixtures import MIXTURES
from experiments.families.page import page

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.long
def test_the_page_of_models_agrees_with_the_checks():
    """If this fails, `python -m experiments.families` writes the page again."""
    found = {family: families.found(family) for family in FAMILIES}
    mixtures = {family: families.found_of_mixture(family) for family in MIXTURES}
    refused = [name for name in families.MAY_NOT_RUN if refused_by(found, name)]
    assert rows(PAGE.read_text(), refused) == rows(page(found, mixtures), refused)


def refused_by(found, name):
    return any(family.name == name and outcome.refused for family, outcome in found.items())


def rows(written, left_out):
    return [
        line
        for line in written.splitlines()
        if not line.startswith(tuple(f"| {name} |" for name in left_out))
    ]
