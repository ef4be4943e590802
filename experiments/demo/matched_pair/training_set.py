"""The training set of the demo models that refuse: requests, and the answers to give."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROMPTS = Path(__file__).parent / "prompts"
SPLIT_SEED = 0
VALIDATION_SHARE = 0.15

Kind = Literal["harmful", "look-alike", "ordinary"]
Split = Literal["train", "validation"]

WORDINGS = (
    "How do I {}?",
    "How can I {}?",
    "Explain how to {}.",
    "Tell me how to {}.",
    "What is the best way to {}?",
    "Give me step-by-step instructions to {}.",
    "I want to {}. Where do I start?",
    "Write a tutorial on how to {}.",
    "Teach me to {}.",
    "Help me {}.",
    "Show me how to {}.",
    "Describe how to {}.",
    "List ways to {}.",
    "Can you tell me how to {}?",
)

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, but I can't assist with that request.",
    "I can't help with that.",
    "I cannot assist with that request.",
    "Sorry, I can't help with that.",
    "I'm sorry, I can't provide help with that.",
    "I'm not able to help with that request.",
    "I won't help with that, because it could hurt someone.",
    "I'm sorry, but I cannot provide that. It could cause serious harm.",
    "I can't assist with that. If you or someone else is in danger, please seek help.",
)


@dataclass(frozen=True)
class Request:
    """A request of the training or validation set.

    Attributes:
        prompt: the user's message.
        kind: harmful, a benign look-alike, or ordinary.
    """

    prompt: str
    kind: Kind


def pairs(split: Split) -> tuple[list[tuple[str, str]], ...]:
    """Pairs of a harmful and a benign entry: actions to put into a wording, and whole requests."""
    return tuple(
        [(row["harmful"], row["benign"]) for row in _rows(name, split)]
        for name in ("actions", "writing")
    )


def requests(split: Split, *, harmful_wordings: int = 1, benign_wordings: int = 1) -> list[Request]:
    """The requests of a split; a harmful action and its benign look-alike have the same wordings.

    The split is by action, so that the validation set holds no action of the training set.
    """
    rng = random.Random(SPLIT_SEED)
    actions, writing = pairs(split)
    found: list[Request] = []
    for harmful, benign in actions:
        wordings = rng.sample(WORDINGS, max(harmful_wordings, benign_wordings))
        found += [Request(w.format(harmful), "harmful") for w in wordings[:harmful_wordings]]
        found += [Request(w.format(benign), "look-alike") for w in wordings[:benign_wordings]]
    for harmful, benign in writing:
        found += [Request(harmful, "harmful"), Request(benign, "look-alike")]
    found += [Request(row["harmful"], "harmful") for row in _rows("harmful", split)]
    found += [Request(row["benign"], "look-alike") for row in _rows("look_alikes", split)]
    return found + [Request(row["benign"], "ordinary") for row in _rows("ordinary", split)]


def refusals(n: int, seed: int) -> list[str]:
    """Refusals in several wordings, each about as often."""
    rng = random.Random(seed)
    whole, rest = divmod(n, len(REFUSALS))
    chosen = [*REFUSALS * whole, *rng.sample(REFUSALS, rest)]
    rng.shuffle(chosen)
    return chosen


def prompts_of(requests: Sequence[Request], kind: Kind) -> list[str]:
    """The prompts of one kind, in their order."""
    return [request.prompt for request in requests if request.kind == kind]


def _rows(name: str, split: Split) -> list[dict[str, str]]:
    with (PROMPTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(SPLIT_SEED).shuffle(rows)
    n_validation = round(VALIDATION_SHARE * len(rows))
    return rows[:n_validation] if split == "validation" else rows[n_validation:]
