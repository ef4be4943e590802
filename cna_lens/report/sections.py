"""What a report is made of: sections of words, numbers, tables and pictures, no HTML yet."""

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
        description: what it shows, for those who do not see it.
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
        per_layer: how many neurons each layer has; None where that is no question.
        pictures: its figures.
        tables: its numbers.
        views: HTML of `cna_lens.viz`, in which all text is escaped already.
        caveats: what to bear in mind with these numbers.
        commands: how to have them again.
    """

    title: str
    lead: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    per_layer: tuple[int, ...] | None = None
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    views: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
