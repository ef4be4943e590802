"""Text in which every character is visible, and no character changes the text around it."""

from __future__ import annotations

import unicodedata

NAMED = {"\n": "↵", "\t": "⇥", "\r": "␍"}
# Control, format, surrogate, private-use and unassigned characters; line separators.
HIDDEN = ("C", "Zl", "Zp")
# Without these joiners, an emoji of a flag or a family falls apart into several.
JOINERS = "\u200d\ufe0f"
# What Unicode's charts put below a mark that stands alone.
NO_LETTER = "\u25cc"


def visible(text: str) -> str:
    r"""Write out line ends, tabs and hidden characters; put a mark without a letter on a circle.

    >>> print(visible("a\nb\u202ec"), visible("\u0301"))
    a↵b⟨U+202E⟩c ◌́
    """
    joined = len(text) > 1
    shown = "".join(
        char if joined and char in JOINERS else NAMED.get(char) or _written_out(char)
        for char in text
    )
    return NO_LETTER + shown if unicodedata.category(shown[:1] or " ").startswith("M") else shown


def _written_out(char: str) -> str:
    hidden = unicodedata.category(char).startswith(HIDDEN) or char in JOINERS
    return f"⟨U+{ord(char):04X}⟩" if hidden else char
