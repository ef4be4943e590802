"""The README is short, and its example prints the output below it."""

import re
import subprocess
import sys

import pytest
from pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE, OUTPUT = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()


def test_it_is_short():
    assert len(README.splitlines()) <= 120
    assert len(CODE.splitlines()) <= 12


@pytest.mark.notebooks
@pytest.mark.real_model
def test_the_example_prints_what_stands_below_it():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert found.stdout == OUTPUT
