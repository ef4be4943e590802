"""The programs that are compiled, and prompts that tell their outputs apart.

RASP, the language of the programs, is defined in arXiv 2106.06981.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_TOKENS: Final = 10
"""Tokens of the longest prompt, without the one at its beginning."""
N_PROMPTS: Final = 32
"""Prompts of each kind."""
SEED: Final = 0
PAIRS: Final = {("a", "b"), ("b", "c"), ("c", "a")}
VOWELS: Final = "ae"
SMALL: Final = "12"

Text = tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """A program, and how a positive and a negative prompt are drawn.

    Attributes:
        description: what it computes.
        letters: its tokens.
        causes: directions of which each is needed for an output of 1, as "variable:value".
        variables: directions whose neurons are scored apart, too.
        expression: makes the RASP expression from the module `tracr.rasp.rasp`.
        draw: a positive prompt, and the same with one token changed.
    """

    description: str
    letters: str
    causes: tuple[str, ...]
    variables: tuple[str, ...]
    expression: Callable[[Any], Any]
    draw: Callable[[random.Random], tuple[Text, Text]]


def prompts(program: Program) -> tuple[Sequence[Text], Sequence[Text]]:
    """Positive and negative prompts, of which none stands twice."""
    rng = random.Random(SEED)
    found: dict[Text, Text] = {}
    while len(found) < N_PROMPTS:
        positive, negative = program.draw(rng)
        if negative not in found.values():
            found.setdefault(positive, negative)
    return list(found), list(found.values())


def _previous(rasp: Any) -> Any:
    at = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    return rasp.Aggregate(at, rasp.tokens, default=None).named("previous")


def _pair(rasp: Any) -> Any:
    return rasp.SequenceMap(
        lambda before, last: int((before, last) in PAIRS), _previous(rasp), rasp.tokens
    ).named("pair")


def _count(rasp: Any) -> Any:
    same = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ)
    return rasp.Map(lambda n: int(n >= 3), rasp.SelectorWidth(same).named("count")).named("often")


def _chain(rasp: Any) -> Any:
    vowel = rasp.Map(lambda token: int(token in VOWELS), _previous(rasp)).named("vowel")
    small = rasp.Map(lambda token: int(token in SMALL), rasp.tokens).named("small")
    return rasp.SequenceMap(lambda v, s: int(v == s == 1), vowel, small).named("chain")


def _begun(rng: random.Random, letters: str) -> Text:
    return tuple(rng.choices(letters, k=6))


def _draw_pair(rng: random.Random) -> tuple[Text, Text]:
    before, last = rng.choice(sorted(PAIRS))
    other = rng.choice([each for each in "abcdef" if (before, each) not in PAIRS])
    begun = _begun(rng, "abcdef")
    return (*begun, before, last), (*begun, before, other)


def _draw_count(rng: random.Random) -> tuple[Text, Text]:
    """The last token stands three times in one, and twice in the other."""
    last = rng.choice("abc")
    others = [each for each in "abc" if each != last]
    begun = [last, last, *rng.choices(others, k=4)]
    rng.shuffle(begun)
    changed = list(begun)
    changed[begun.index(last)] = rng.choice(others)
    return (*begun, last), (*changed, last)


def _draw_chain(rng: random.Random) -> tuple[Text, Text]:
    """The last two tokens are a vowel and a small digit; in the other, one of the two is not."""
    begun = _begun(rng, "abcde12345")
    before, last = rng.choice(VOWELS), rng.choice(SMALL)
    other = (rng.choice("bcd"), last) if rng.random() < 0.5 else (before, rng.choice("345"))
    return (*begun, before, last), (*begun, *other)


PROGRAMS: Final = {
    "pair": Program(
        "whether the last two tokens are ab, bc or ca",
        "abcdef",
        ("pair:1",),
        (),
        _pair,
        _draw_pair,
    ),
    "count": Program(
        "whether the last token stands three times or more",
        "abc",
        ("often:1",),
        # Each count has neurons that add to it, and others that take from it.
        ("count:3",),
        _count,
        _draw_count,
    ),
    "chain": Program(
        "whether the last two tokens are a vowel and then 1 or 2",
        "abcde12345",
        ("chain:1", "vowel:1", "small:1"),
        ("chain:1", "vowel:1", "small:1"),
        _chain,
        _draw_chain,
    ),
}
