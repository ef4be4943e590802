"""docs/models.md, from what the checks find."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from textwrap import fill

from experiments.models.checks import CHECKS, Outcome
from experiments.models.families import Family

_HEAD = """\
# Models

<!-- Written by `python -m experiments.models`; a test fails where they find anything else. -->

`cna_lens` works on any decoder that TransformerLens wraps and whose MLP neurons have a hook point.
Each family below is checked on a tiny model with random weights, through `TransformerBridge` of
TransformerLens 4, against the plain Hugging Face model, run one prompt at a time without padding
and cache. A family "works" where all of this holds:
"""
_TABLE_NOTE = """\
The widths are those of the tiny model's layers. Where no prefix is shared, what prompts have in
common at the beginning is computed for each of them; the results are the same."""


def page(outcomes: Mapping[Family, Outcome]) -> str:
    """The page, in the order of the families."""
    checked = [f"- **{name}**: {_says(check)}" for name, check in CHECKS.items()]
    rows = [
        ("family", "`model_type`", "status", "widths", "shared prefix"),
        ("---",) * 5,
        *(_row(family, found) for family, found in outcomes.items()),
    ]
    only_4 = [str(family) for family in outcomes if family.needs_transformer_lens_4]
    paragraphs = [
        _HEAD,
        "\n".join(checked) + "\n",
        "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n",
        _TABLE_NOTE + "\n",
        fill(
            "With TransformerLens 3.9 the same holds, but for "
            f"{', '.join(only_4)}: its bridges of these compute something else than the Hugging "
            "Face model does, or fail.",
            100,
        ),
    ]
    return "\n".join(paragraphs) + "\n"


def _row(family: Family, found: Outcome) -> tuple[str, ...]:
    name, model_type = str(family), f"`{family.model_type}`"
    if found.refused:
        return name, model_type, f"refused: {found.refused}", "", ""
    failing = ", ".join(found.failures)
    widths = ", ".join(str(width) if width else "no MLP" for width in found.widths)
    prefix = f"no: {found.not_shared}" if found.not_shared else "yes"
    return name, model_type, f"fails: {failing}" if failing else "works", widths, prefix


def _says(check: object) -> str:
    said = (inspect.getdoc(check) or "").replace("\n", " ").rstrip(".")
    return said if said.startswith("`") else said[0].lower() + said[1:]
