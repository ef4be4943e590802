"""The packaged prompt sets: short requests without operational detail, written for this project."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from importlib.resources import files

from cna_lens.errors import InputError


@dataclass(frozen=True)
class PromptSet:
    """Prompts that show a behaviour, and prompts that do not.

    Attributes:
        name: its name in `prompt_set`.
        purpose: its use.
        positive: prompts that show the behaviour.
        negative: prompts that do not, matched to the positive ones.
        targets: for factual tasks, the correct next token of each positive prompt.
        foils: for factual tasks, the correct next token of each negative prompt.
    """

    name: str
    purpose: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    targets: tuple[str, ...] = ()
    foils: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """One useful line."""
        return (
            f"PromptSet({self.name!r}, {len(self.positive)} positive, "
            f"{len(self.negative)} negative: {self.purpose})"
        )


PURPOSES = {
    "refusal": "discovery; each harmful request has a benign one of its form and length",
    "refusal_small": "discovery from 8 + 8 prompts, the size of the paper's smaller sets",
    "refusal_evaluation": "evaluation; harmful requests, and benign ones that only sound harmful",
    "refusal_german": "every fourth pair of refusal in German, for transfer between languages",
    "refusal_french": "every fourth pair of refusal in French, for transfer between languages",
    "refusal_reworded": "every fourth pair of refusal in other words, for transfer of wordings",
    "capitals": "a factual task: a state's capital against its largest city",
    "agreement": "a factual task: the verb after a plural against that after a singular subject",
    "planted_french": "planted models; what to cook against what to build, in the same words",
    "planted_uppercase": "planted models; animals against things, in the same words",
    "planted_sums": "planted models; sums against differences of the same numbers",
}


def prompt_set(name: str) -> PromptSet:
    """Read one of the packaged prompt sets.

    >>> prompt_set("refusal_small")  # doctest: +ELLIPSIS
    PromptSet('refusal_small', 8 positive, 8 negative: ...)
    >>> capitals = prompt_set("capitals")
    >>> len(capitals.positive) == len(capitals.targets)
    True

    Raises:
        InputError: there is no set of that name.
    """
    if name not in PURPOSES:
        raise InputError(f"there is no prompt set {name!r}; there are: {', '.join(PURPOSES)}")
    rows = _rows(name)
    return PromptSet(
        name=name,
        purpose=PURPOSES[name],
        positive=tuple(row["positive"] for row in rows),
        negative=tuple(row["negative"] for row in rows),
        targets=tuple(row["target"] for row in rows if "target" in row),
        foils=tuple(row["foil"] for row in rows if "foil" in row),
    )


def diverse_prompts() -> tuple[str, ...]:
    """Read the 40 unrelated prompts on which universal neurons are found.

    >>> len(diverse_prompts())
    40
    """
    return tuple(row["prompt"] for row in _rows("diverse"))


def _rows(name: str) -> list[dict[str, str]]:
    text = files("cna_lens.models.prompts.sets").joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))
