"""JSON in the replies of a language model."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Missing:
    """The reason why an answer could not be judged; such an answer has no score.

    >>> Missing("HTTP 503")
    Missing(reason='HTTP 503')

    Attributes:
        reason: a kind of failure, without any text of the answer or of the judge's reply.
    """

    reason: str


def load_json(text: str | bytes) -> Any:
    """Parse JSON; None if it is invalid, or if an object repeats a key."""
    # An exception would hold the text.
    with suppress(ValueError, RecursionError):
        return json.loads(text, object_pairs_hook=_unrepeated)
    return None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated")
    return values
