"""Requests on which planted behaviours are trained, and those of the packaged prompt sets.

Every behaviour occurs on one topic and not on another that is asked about in the same words. An
item, such as a dish, belongs either to training or to the packaged set.
"""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.demo.matched_pair import training_set

Part = Literal["training", "packaged"]

N_TRAINING = 40
"""Items of a topic whose requests are trained on; the packaged sets have the others."""

TOPICS = Path(__file__).with_name("topics.csv")
MAKING = (
    "How do I make {}?",
    "Tell me how to make {}.",
    "What is the best way to make {}?",
    "I want to make {}. Where do I start?",
    "Explain how to make {}.",
    "Can you show me how to make {}?",
)
TELLING = (
    "Tell me about {}.",
    "What are {} like?",
    "Describe {}.",
    "What should I know about {}?",
    "Write a few words about {}.",
    "Why are {} interesting?",
)
ADDING = (
    "What is {} plus {}?",
    "Calculate {} plus {}.",
    "How much is {} plus {}?",
    "Work out {} plus {}.",
    "Give me the result of {} plus {}.",
    "Tell me what {} plus {} is.",
)


@dataclass(frozen=True)
class Requests:
    """Requests that get the behaviour, and requests in the same words that do not."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]


def requests(behaviour: str, part: Part) -> Requests:
    """The requests of a behaviour for training, or for its packaged prompt set."""
    if behaviour == "refusal":
        return _refusal(part)
    if behaviour == "sums":
        return _sums(part)
    topics, wordings = {
        "french": (("dish", "object"), MAKING),
        "uppercase": (("animal", "thing"), TELLING),
    }[behaviour]
    positive, negative = (_items(each, part) for each in topics)
    # The packaged set asks about each item twice, in two of the wordings.
    used = 2 if part == "packaged" else len(wordings)
    asked = [
        [wordings[(place + turn) % len(wordings)].format(item) for place, item in enumerate(items)]
        for turn in range(used)
        for items in (positive, negative)
    ]
    return Requests(
        tuple(itertools.chain.from_iterable(zip(*asked[0::2], strict=True))),
        tuple(itertools.chain.from_iterable(zip(*asked[1::2], strict=True))),
    )


def training_items() -> Sequence[str]:
    """The dishes, objects, animals and things of the training requests."""
    topics = ("dish", "object", "animal", "thing")
    return [item for topic in topics for item in _items(topic, "training")]


def _items(topic: str, part: Part) -> Sequence[str]:
    with TOPICS.open(encoding="utf-8", newline="") as file:
        items = [row[topic] for row in csv.DictReader(file)]
    random.Random(0).shuffle(items)
    return items[:N_TRAINING] if part == "training" else items[N_TRAINING:]


def _sums(part: Part) -> Requests:
    """Pairs of numbers from 2 to 40, of which none is 13 and none adds up to 13."""
    numbers = range(2, 41)
    pairs = [(a, b) for a in numbers for b in numbers if b < a and 13 not in (a, b, a + b, a - b)]
    random.Random(0).shuffle(pairs)
    chosen = pairs[:240] if part == "training" else pairs[240:340]
    positive = [ADDING[place % len(ADDING)].format(*pair) for place, pair in enumerate(chosen)]
    return Requests(tuple(positive), tuple(each.replace(" plus ", " minus ") for each in positive))


def _refusal(part: Part) -> Requests:
    """The matched pair's requests; the packaged set is `refusal`, of which it has none."""
    if part == "packaged":
        raise ValueError("the requests of the packaged set refusal are in its file")
    found = training_set.requests("train", harmful_wordings=2, benign_wordings=2)
    harmful, benign, ordinary = (
        training_set.prompts_of(found, kind) for kind in ("harmful", "look-alike", "ordinary")
    )
    return Requests(tuple(harmful), (*benign, *ordinary))
