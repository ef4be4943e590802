"""The guide to big models states what the estimate and the benchmark say."""

import json
from pathlib import Path

import pytest

from experiments.benchmarks import shapes

GUIDE = Path("docs/guides/big_models.md")
RECORD = Path("experiments/results/shapes.json")


@pytest.mark.long
def test_the_guide_has_the_memory_and_cards_of_the_estimate():
    assert shapes.sizes() in GUIDE.read_text()


def test_the_guide_has_the_rows_of_the_benchmark():
    record = json.loads(RECORD.read_text())
    assert shapes.table(record) in GUIDE.read_text()
