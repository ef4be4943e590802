"""The sections of a report: words, numbers, tables and pictures, without HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cna_lens.results.rendering import Table


@dataclass(frozen=True)
class Picture:
    """An image that is part of the file.

    Attributes:
        image: its bytes.
        form: "svg" or "png".
        width: in pixels of a screen.
        description: what it shows, for readers who do not see it.
    """

    image: bytes
    form: Literal["svg", "png"]
    width: int
    description: str


@dataclass(frozen=True)
class Section:
    """One result, as readers meet it.

    Attributes:
        title: what it is.
        lead: what was found, a paragraph each.
        facts: named values.
        per_layer: how many neurons each layer has; None for results without layers.
        pictures: its figures.
        tables: its numbers.
        views: HTML of `cna_lens.viz`, in which all text is escaped already.
        caveats: what to bear in mind with these numbers.
        provenance: hashes, versions and seeds; the page shows them at its end.
        commands: the commands that reproduce it; the page shows them at its end.
    """

    title: str
    lead: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    per_layer: tuple[int, ...] | None = None
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    views: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
