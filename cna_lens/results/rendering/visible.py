"""Text whose every character can be seen, and none of which turns the text around it."""

from __future__ import annotations

import unicodedata

NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍"}
# Control and format characters, surrogates, private and unassigned ones, line separators.
HIDDEN = ("C", "Zl", "Zp")
# Without these, flags and families fall into several pictures.
JOINERS = "\u200d\ufe0f"


def visible(text: str) -> str:
    r"""The text with line ends, tabs and hidden characters written out.

    >>> print(visible("a\nb\u202ec"))
    a↵b⟨U+202E⟩c
    """
    joined = len(text) > 1
    return "".join(
        char if joined and char in JOINERS else NAMED.get(char) or _written_out(char)
        for char in text
    )


def _written_out(char: str) -> str:
    hidden = unicodedata.category(char).startswith(HIDDEN) or char in JOINERS
    return f"⟨U+{ord(char):04X}⟩" if hidden else char
