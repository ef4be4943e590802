"""docs/models.md, from what the checks find."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from textwrap import fill

from experiments.families import checks, mixture_checks
from experiments.families.checks import Outcome
from experiments.families.families import Family
from experiments.families.mixture_checks import MixtureOutcome
from experiments.families.mixtures import Mixture

_HEAD = """\
# Models

<!-- Written by `python -m experiments.families`; a test fails where they find anything else. -->

`cna_lens` works on any decoder that TransformerLens wraps and whose MLP neurons have a hook point.
Each family below is checked on a tiny model with random weights, through `TransformerBridge` of
TransformerLens 4, against the plain Hugging Face model, run one prompt at a time without padding
and cache. A family "works" where all of this holds:
"""
_TABLE_NOTE = """\
The widths are those of the tiny model's layers. Where no prefix is shared, the common
beginning of prompts is computed for each of them; the results are the same."""
_MIXTURES = """\
## Mixtures of experts

A neuron of an expert is (layer, expert, index). The slow definition here runs one token and one
expert at a time, by hand:
"""
_MIXTURES_NOTE = """\
The neurons are those of each layer: first the ones that every token passes, then the experts'."""


def page(outcomes: Mapping[Family, Outcome], mixtures: Mapping[Mixture, MixtureOutcome]) -> str:
    """The page, in the order of the families."""
    dense = [
        ("family", "`model_type`", "status", "widths", "shared prefix"),
        *(_row(family, found) for family, found in outcomes.items()),
    ]
    sparse = [
        ("family", "`model_type`", "status", "neurons"),
        *(_mixture_row(family, found) for family, found in mixtures.items()),
    ]
    only_4 = [str(each) for each in (*outcomes, *mixtures) if each.needs_transformer_lens_4]
    paragraphs = [
        _HEAD,
        _checked(checks.CHECKS),
        _table(dense),
        _TABLE_NOTE + "\n",
        _MIXTURES,
        _checked(mixture_checks.CHECKS),
        _table(sparse),
        _MIXTURES_NOTE + "\n",
        "## TransformerLens 3.9\n",
        fill(
            "With TransformerLens 3.9 the same holds, but for "
            f"{', '.join(only_4)}: its bridges of these compute something else than the Hugging "
            "Face model does, or fail.",
            100,
        ),
    ]
    return "\n".join(paragraphs) + "\n"


def _checked(every: Mapping[str, object]) -> str:
    return "".join(f"- **{name}**: {_says(check)}\n" for name, check in every.items())


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mixture_row(family: Mixture, found: MixtureOutcome) -> tuple[str, ...]:
    name, model_type = str(family), f"`{family.model_type}`"
    if found.refused:
        return name, model_type, f"refused: {found.refused}", ""
    return name, model_type, _status(found.failures), ", ".join(found.layers)


def _status(failures: Mapping[str, str]) -> str:
    return f"fails: {', '.join(failures)}" if failures else "works"


def _row(family: Family, found: Outcome) -> tuple[str, ...]:
    name, model_type = str(family), f"`{family.model_type}`"
    if found.refused:
        return name, model_type, f"refused: {found.refused}", "", ""
    widths = ", ".join(str(width) if width else "no MLP" for width in found.widths)
    prefix = f"no: {found.not_shared}" if found.not_shared else "yes"
    return name, model_type, _status(found.failures), widths, prefix


def _says(check: object) -> str:
    said = (inspect.getdoc(check) or "").replace("\n", " ").rstrip(".")
    return said if said.startswith("`") else said[0].lower() + said[1:]
