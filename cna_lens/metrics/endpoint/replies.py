"""JSON in the replies of a language model."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Missing:
    """An answer that could not be judged, and why; it has no score, not the score 0.

    >>> Missing("HTTP 503")
    Missing(reason='HTTP 503')

    Attributes:
        reason: a kind of failure. It holds no text of the answer or of the judge's reply.
    """

    reason: str


def load_json(text: str | bytes) -> Any:
    """What JSON stands for; None where it is none, or where a key of an object is repeated."""
    # An error would carry the text with it.
    with suppress(ValueError, RecursionError):
        return json.loads(text, object_pairs_hook=_unrepeated)
    return None


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key is repeated")
    return values
