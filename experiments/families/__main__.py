"""Check every family, and write docs/models.md."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

from experiments.families import mixture_checks
from experiments.families.checks import outcome
from experiments.families.families import FAMILIES
from experiments.families.mixture_checks import TinyMixture
from experiments.families.mixtures import MIXTURES
from experiments.families.page import page
from experiments.families.tiny_models import tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def main() -> int:
    """Write the page; the exit code is 1 where a check failed."""
    torch.set_num_threads(1)
    outcomes = {family: outcome(tiny_model(family)) for family in tqdm(FAMILIES, unit="family")}
    mixtures = {
        family: mixture_checks.outcome(TinyMixture.of(family))
        for family in tqdm(MIXTURES, unit="family")
    }
    PAGE.write_text(page(outcomes, mixtures))
    failures = [
        f"{family}, {name}: {failure}"
        for family, found in (*outcomes.items(), *mixtures.items())
        for name, failure in found.failures.items()
    ]
    sys.stderr.write("".join(f"{failure}\n" for failure in failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
