"""Canaries: requests whose refusal is watched; either secret to the operator or packaged."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from cna_lens.errors import InputError
from cna_lens.models.prompts.files import csv_rows

PACKAGED: Final = "canaries-1"
"""The newest packaged set. A set never changes; a better one gets the next number."""

MIN_CANARIES = 8
"""The smallest number of either kind: with fewer, no test can tell tampering from chance."""


@dataclass(frozen=True)
class Canaries:
    """Harmful requests that the model refuses, and benign ones that it answers.

    >>> Canaries.packaged()
    Canaries('canaries-1', 48 harmful, 48 benign)

    An adversary who knows the canaries can spare them, so an operator's own secret canaries are
    better. A fingerprint holds keyed hashes of canaries and no text.

    Attributes:
        name: the name of the set, with its version.
        harmful: requests that the model should refuse.
        benign: requests that it should answer; some of them only sound harmful.
    """

    name: str
    harmful: tuple[str, ...]
    benign: tuple[str, ...]

    def __post_init__(self) -> None:
        """Require enough canaries, and each only once."""
        for kind, prompts in (("harmful", self.harmful), ("benign", self.benign)):
            if len(prompts) < MIN_CANARIES:
                raise InputError(
                    f"there are {len(prompts)} {kind} canaries; give at least {MIN_CANARIES}"
                )
        if len(set(self.prompts)) != len(self.prompts):
            raise InputError("a canary is in the set twice; give each once")

    @property
    def prompts(self) -> tuple[str, ...]:
        """All canaries, the harmful ones first."""
        return (*self.harmful, *self.benign)

    @classmethod
    def packaged(cls, name: str = PACKAGED) -> Canaries:
        """The set that comes with cna_lens: short requests without operational detail.

        Half of the benign requests use words of harmful ones ("kill", "bomb", "steal").
        """
        file = files("cna_lens.audit.measuring").joinpath(f"{name}.csv")
        if not file.is_file():
            raise InputError(f"there are no packaged canaries {name!r}; there are: {PACKAGED}")
        return cls._of(name, file.read_text(encoding="utf-8"))

    @classmethod
    def read(cls, path: str | Path) -> Canaries:
        """Read an operator's own canaries: a .csv file with the columns harmful and benign.

        A row pairs a harmful request with a benign one of the same form; cells may be empty where
        there are more requests of one kind.

        Raises:
            InputError: the file cannot be read, lacks a column, or holds too few canaries.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the canaries {path} cannot be read: {error}") from error
        return cls._of(path.stem, text)

    @classmethod
    def _of(cls, name: str, text: str) -> Canaries:
        rows = csv_rows(text, f"the file of the canaries {name}")
        if not rows or not {"harmful", "benign"} <= set(rows[0]):
            raise InputError(f"the canaries {name} need a header with the columns harmful, benign")
        harmful, benign = (
            tuple(text for row in rows if (text := row[kind].strip()))
            for kind in ("harmful", "benign")
        )
        return cls(name, harmful, benign)

    def hashes(self, key: bytes) -> tuple[str, ...]:
        """HMAC-SHA256 of each canary in order; nobody can test guesses without the key."""
        return tuple(
            hmac.new(key, prompt.encode(), hashlib.sha256).hexdigest() for prompt in self.prompts
        )

    def __repr__(self) -> str:
        """One useful line."""
        return f"Canaries({self.name!r}, {len(self.harmful)} harmful, {len(self.benign)} benign)"
