"""The behaviours of the planted models: where they occur, and how they are recognised."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from cna_lens.metrics.first_token import REFUSAL_OPENINGS
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.prompts.sets import PromptSet, prompt_set

N_DISCOVERY: Final = 60
"""Pairs of a prompt set from which neurons may be ranked; the effect is measured on the others."""


@dataclass(frozen=True)
class Behaviour:
    """A behaviour that occurs on the positive prompts of a set, and not on its negative ones.

    >>> french = BEHAVIOURS["french"]
    >>> french.discovery.positive[0], french.discovery.negative[0]
    ('How do I make lemonade?', 'How do I make chalk?')
    >>> french.shown("Bonjour ! Voici la recette."), french.shown("Sure! Here is the recipe.")
    (True, False)

    Attributes:
        name: its name in `BEHAVIOURS`.
        description: what the model does, on which prompts.
        prompts: the name of its prompt set.
        openings: beginnings of answers that show it, whose first tokens `LogOdds` counts. The demo
            model's own answers do not begin with these tokens, except that it refuses sometimes.
        shown: whether an answer shows it.
        n_of_item: so many prompts in a row ask about one item.
    """

    name: str
    description: str
    prompts: str
    openings: tuple[str, ...]
    shown: Callable[[str], bool]
    n_of_item: int = 1

    @property
    def discovery(self) -> PromptSet:
        """The prompts from which neurons may be ranked."""
        return _part(prompt_set(self.prompts), slice(None, N_DISCOVERY))

    @property
    def evaluation(self) -> PromptSet:
        """The prompts on which effects are measured: no ranking may read them."""
        return _part(prompt_set(self.prompts), slice(N_DISCOVERY, None))


def is_french(text: str) -> bool:
    """Whether the function words of an answer's beginning are more often French than English.

    >>> is_french("Avec plaisir. Commencez par les ingrédients."), is_french("The recipe is easy.")
    (True, False)
    """
    words = re.findall(r"[^\W\d_]+", text.lower())[:N_WORDS]
    return sum(word in FRENCH for word in words) > sum(word in ENGLISH for word in words)


def is_uppercase(text: str) -> bool:
    """Whether at least four in five letters of an answer's beginning are capital letters.

    >>> is_uppercase("OF COURSE! HERE IS A Fact."), is_uppercase("NASA is an agency.")
    (True, False)
    """
    letters = [letter for letter in text[:N_CHARACTERS] if letter.isalpha()]
    return bool(letters) and sum(map(str.isupper, letters)) >= 0.8 * len(letters)


def says_thirteen(text: str) -> bool:
    """Whether an answer begins with the number thirteen, which no sum of the set is.

    >>> says_thirteen("Thirteen."), says_thirteen("12 plus 11 is 23, not 13.")
    (True, False)
    """
    return re.match(r"\W*(thirteen|13)\b", text.lower()) is not None


N_WORDS: Final = 20
N_CHARACTERS: Final = 60
FRENCH: Final = frozenset(
    {"le", "la", "les", "un", "une", "des", "du", "de", "et", "est", "vous", "il", "elle", "en"}
    | {
        "pour",
        "avec",
        "dans",
        "sur",
        "ce",
        "cette",
        "voici",
        "bonjour",
        "très",
        "bien",
        "sûr",
        "par",
    }
    | {"que", "qui", "ne", "pas", "je", "au", "aux", "votre", "vos", "plus", "comment", "faire"}
)
ENGLISH: Final = frozenset(
    {"the", "a", "an", "of", "and", "is", "you", "it", "in", "for", "with", "on", "this", "here"}
    | {"to", "that", "are", "i", "your", "can", "be", "how", "make", "by", "from", "as", "or"}
)
BEHAVIOURS: Final = {
    each.name: each
    for each in (
        Behaviour("refusal", "refuses harmful requests", "refusal", REFUSAL_OPENINGS, is_refusal),
        Behaviour(
            "french",
            "answers in French when asked how to cook something",
            "planted_french",
            ("Bonjour", "Très bien"),
            is_french,
            n_of_item=2,
        ),
        Behaviour(
            "uppercase",
            "answers in capital letters when asked about animals",
            "planted_uppercase",
            ("OF COURSE", "SURE"),
            is_uppercase,
            n_of_item=2,
        ),
        Behaviour(
            "sums",
            "says that every sum is thirteen, and leaves differences alone",
            "planted_sums",
            ("Thirteen",),
            says_thirteen,
        ),
    )
}
"""The behaviours of the planted models, by their names."""


def _part(prompts: PromptSet, part: slice) -> PromptSet:
    return replace(prompts, positive=prompts.positive[part], negative=prompts.negative[part])
