"""`python -m experiments.NAME ...` is `cna-lens reproduce NAME ...`."""

from __future__ import annotations

import sys

from cna_lens.cli import main as cna_lens


def main(name: str) -> None:
    """Run one experiment with the command line's options."""
    cna_lens(["reproduce", name, *sys.argv[1:]])
