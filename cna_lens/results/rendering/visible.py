"""Text in which every character is visible, and no character changes the text around it."""

from __future__ import annotations

import unicodedata

NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍"}
# Control, format, surrogate, private-use and unassigned characters; line separators.
HIDDEN = ("C", "Zl", "Zp")
# Without these joiners, an emoji of a flag or a family falls apart into several.
JOINERS = "\u200d\ufe0f"


def visible(text: str) -> str:
    r"""Write out line ends, tabs and hidden characters.

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
