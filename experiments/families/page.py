"""Make docs/models.md from the results of the checks."""

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
Each family below is checked on a tiny model with random weights. The checks compare the model in
`TransformerBridge` of TransformerLens 4 with the plain Hugging Face model, which runs one prompt at
a time, without padding and without a cache. Planted neurons are neurons of the tiny model whose
activations were made larger. A family "works" if it passes all of these checks:
"""
_TABLE_NOTE = """\
The widths are the numbers of neurons in the tiny model's layers. Without a shared prefix, the
common beginning of the prompts is computed again for each prompt. The results are the same."""
_MIXTURES = """\
## Mixtures of experts

A neuron of an expert is (layer, expert, index). These checks compare the model with a slow
definition, which runs one token and one expert at a time:
"""
_MIXTURES_NOTE = """\
The last column gives the neurons of each layer: first those that every token passes, then those of
the experts."""


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
            "With TransformerLens 3.9 the same families work, except for "
            f"{', '.join(only_4)}. For these families, the bridge of 3.9 fails or computes "
            "something other than the Hugging Face model.",
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
