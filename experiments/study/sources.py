"""Where models and prompts come from: the Hub, or a local mirror in the Hub's own layout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cna_lens
from cna_lens import InputError
from cna_lens.models import PURPOSES

PACKAGED_MODELS = ("demo", "demo-refusal")

COLUMNS = {
    "JailbreakBench/JBB-Behaviors": {"config": "behaviors", "split": "harmful", "column": "Goal"}
}
"""Configuration, split and column of the harmful requests in data sets for `evaluation`."""


@dataclass(frozen=True)
class Sources:
    """The Hub, or a folder that holds `owner/name` folders as the Hub does.

    Attributes:
        hub_root: the folder; None for the Hub.
    """

    hub_root: Path | None = None

    def locate(self, name: str) -> str:
        """The name or folder to load a model or a data set from.

        Raises:
            InputError: the mirror does not hold it. It is not downloaded instead.
        """
        if self.hub_root is None or name in PACKAGED_MODELS:
            return name
        folder = self.hub_root / name
        if not folder.is_dir():
            raise InputError(
                f"{name} is not in the mirror: there is no folder {folder}. Put it there, or "
                "leave --hub-root out to take it from the Hub"
            )
        return str(folder)

    def harmful_requests(self, name: str, limit: int | None) -> tuple[str, ...]:
        """The requests of a packaged prompt set or a data set, at most `limit`, spread over it.

        Raises:
            InputError: there is no such set, or it cannot be loaded.
        """
        return spread(_harmful(self, name), limit)


@cache
def _harmful(sources: Sources, name: str) -> tuple[str, ...]:
    if name in PURPOSES:
        return cna_lens.prompt_set(name).positive
    if name not in COLUMNS:
        known = ", ".join([*COLUMNS, *(each for each in PURPOSES if "refusal" in each)])
        raise InputError(f"evaluation is {name!r}, expected one of {known}")
    return tuple(map(str, cna_lens.read_prompts(sources.locate(name), **COLUMNS[name])))


def spread(prompts: tuple[str, ...], limit: int | None) -> tuple[str, ...]:
    """At most `limit` prompts, evenly spaced over the whole set.

    >>> spread(("a", "b", "c", "d"), 2)
    ('a', 'c')
    """
    if limit is None or limit >= len(prompts):
        return prompts
    return tuple(prompts[i * len(prompts) // limit] for i in range(limit))


def texts_hash(texts: tuple[str, ...]) -> str:
    """A short hash of several texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:16]
