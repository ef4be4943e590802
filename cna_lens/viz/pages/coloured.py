"""Tokens on a coloured background, drawn by CircuitsVis and legible without it."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cna_lens.results.rendering import embedded_json, escaped, text_html
from cna_lens.results.rendering.visible import visible

POSITIVE = "#0072b2"
NEGATIVE = "#d55e00"

WORD_JOINER = "\u2060"
CONTINUES = "⋯"
# Without it, the mark at the end of a right-to-left word would stand before the word.
RIGHT_TO_LEFT = "\u200f"


@dataclass(frozen=True)
class Values:
    """One value for each token of some texts, on one scale.

    Attributes:
        name: in the picker.
        rows: the values, text by text; a value that is not finite is written beside its token.
        first_token_counts: whether the scale covers the values of the texts' first tokens.
    """

    name: str
    rows: Sequence[Sequence[float]]
    first_token_counts: bool = True

    @property
    def largest(self) -> float:
        """The largest magnitude of a finite value on the scale, never 0."""
        rows = [row if self.first_token_counts or len(row) == 1 else row[1:] for row in self.rows]
        finite = [abs(value) for row in rows for value in row if math.isfinite(value)]
        return max(finite, default=0.0) or 1e-9


def coloured_tokens(
    headings: Sequence[str], texts: Sequence[Sequence[str]], choices: Sequence[Values], unit: str
) -> str:
    """A picker of values, their scale, and the texts with tokens coloured by the values."""
    options = "".join(f"<option>{escaped(choice.name)}</option>" for choice in choices)
    picker = f"<p><label>coloured by <select>{options}</select></label></p>"
    notes = [f"{choice.largest:.3g} {unit}" for choice in choices]
    scale = (
        '<div class="cna-scale" role="img" aria-label="Orange is negative, white 0, blue positive">'
        f'<span>-<span data-notes="{embedded_json(notes)}">{escaped(notes[0])}</span></span>'
        f'<i style="background:linear-gradient(90deg,{NEGATIVE},#fff,{POSITIVE})"></i>'
        f'<span>+<span data-notes="{embedded_json(notes)}">{escaped(notes[0])}</span></span></div>'
    )
    rows = "".join(
        f'<p class="cna-note">{escaped(heading)}</p>'
        + _host(tokens, [(choice.rows[place], choice.largest) for choice in choices])
        for place, (heading, tokens) in enumerate(zip(headings, texts, strict=True))
    )
    return f"{picker if len(choices) > 1 else ''}{scale}{rows}{continued_note(texts)}"


def _host(tokens: Sequence[str], choices: Sequence[tuple[Sequence[float], float]]) -> str:
    props = {
        "tokens": list(map(token_label, shown_tokens(tokens))),
        "positiveColor": POSITIVE,
        "negativeColor": NEGATIVE,
        "paddingBottom": 0,
    }
    drawn = [
        {
            "values": [value if math.isfinite(value) else 0.0 for value in map(rounded, values)],
            "minValue": -largest,
            "maxValue": largest,
            **(
                {}
                if all(map(math.isfinite, values))
                else {"tokens": list(map(token_label, _shown_with_values(tokens, values)))}
            ),
        }
        for values, largest in choices
    ]
    values, largest = choices[0]
    spans = "".join(
        f'<span style="{_ground(value / largest)}" title="{value:.4g}">{html.escape(text)}</span>'
        for text, value in zip(_shown_with_values(tokens, values), values, strict=True)
    )
    return (
        f'<div class="cna-tokens" dir="auto" data-circuitsvis="ColoredTokens" '
        f'data-props="{embedded_json(props)}" data-choices="{embedded_json(drawn)}">{spans}</div>'
    )


def _shown_with_values(tokens: Sequence[str], values: Sequence[float]) -> list[str]:
    """The tokens with visible characters, each followed by its value if that is not finite."""
    return [
        text + ("" if math.isfinite(value) else f"⟨{value}⟩")
        for text, value in zip(shown_tokens(tokens), values, strict=True)
    ]


def shown_token(token: str) -> str:
    r"""A token with visible characters; "" continues a character.

    >>> shown_token("a\n"), shown_token("  "), shown_token("")
    ('a↵', '␣␣', '⋯')
    """
    shown = visible(token)
    return shown if shown.strip() else "␣" * len(shown) or CONTINUES


def shown_tokens(tokens: Sequence[str]) -> list[str]:
    r"""The tokens of a text with visible characters; ⋯ continues a character.

    >>> shown_tokens(["你", "", "\n"])
    ['你', '⋯', '↵']
    """
    shown: list[str] = []
    mark = CONTINUES
    for token in tokens:
        if token:
            mark = CONTINUES + (RIGHT_TO_LEFT if _is_right_to_left(token) else "")
        shown.append(shown_token(token) if token else mark)
    return shown


def _is_right_to_left(text: str) -> bool:
    """Whether what follows a text continues it to the left."""
    classes = map(unicodedata.bidirectional, reversed(text))
    return next((each for each in classes if each in ("L", "R", "AL")), "L") != "L"


def continued_note(texts: Iterable[Sequence[str]]) -> str:
    """A line that explains the mark of tokens that continue a character, where there is one.

    >>> continued_note([["你", "", "好"]])
    '<p class="cna-note">⋯ is one more token of the character before it.</p>'
    """
    if all(all(tokens) for tokens in texts):
        return ""
    return text_html("cna-note", f"{CONTINUES} is one more token of the character before it.")


def token_label(text: str) -> str:
    r"""Visible text that CircuitsVis shows unchanged.

    CircuitsVis puts tokens into the page as HTML and into tooltips as text. An invisible joiner
    follows each character that would begin a tag or an entity, so none begins: both show the same
    text, and nothing is executed.

    >>> token_label("</script>").replace("\u2060", "|")
    '<|/script>'
    """
    return re.sub("[<&]", lambda found: found[0] + WORD_JOINER, text)


def rounded(value: float) -> float:
    """Round to four digits: enough for a tooltip, and short enough for a file of many tokens."""
    return float(f"{value:.4g}")


def _ground(share: float) -> str:
    """A background between white and the sign's colour, and legible ink."""
    depth = min(1.0, abs(share)) if math.isfinite(share) else 0.0
    full = POSITIVE if share > 0 else NEGATIVE
    parts = [int(full[start : start + 2], 16) for start in (1, 3, 5)]
    mixed = [round(255 + depth * (part - 255)) for part in parts]
    ink = "#fff" if depth > 0.6 else "#000"
    return f"background:rgb({mixed[0]},{mixed[1]},{mixed[2]});color:{ink}"
