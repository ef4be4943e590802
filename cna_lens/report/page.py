"""Sections as one HTML file that needs no network, and runs no script but its own."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from cna_lens.report.sections import Picture, Section
from cna_lens.results.rendering import escaped, text_html
from cna_lens.results.rendering.html import (
    asset,
    facts_html,
    layer_bars,
    table_markup,
)


def page_html(title: str, sections: Sequence[Section], scripts: Sequence[str] = ()) -> str:
    """The file: contents, and each section with its caveats beside its numbers.

    The policy in its head allows the scripts by their hashes and images in the file itself; no
    other script runs and nothing is asked of a network, whatever the texts hold.

    >>> page_html("<b>", [Section("A & B")]).count("&lt;b&gt;")
    2

    Args:
        title: of the file.
        sections: in their order.
        scripts: what `views` need, beside the script that sorts tables.
    """
    behind = (*(scripts if any(section.views for section in sections) else ()), asset("sort.js"))
    contents = "".join(
        f'<li><a href="#{_id(place)}">{escaped(section.title)}</a></li>'
        for place, section in enumerate(sections)
    )
    main = "".join(_section(place, section) for place, section in enumerate(sections))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(behind)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escaped(title)}</title><style>{asset('style.css')}{_style()}</style></head>"
        '<body class="cna cna-report"><a class="cna-skip" href="#main">Skip the contents</a>'
        f"<header><h1>{escaped(title)}</h1></header>"
        f'<nav aria-label="Contents"><ul>{contents}</ul></nav>'
        f'<main id="main" tabindex="-1">{main}</main>'
        + "".join(f"<script>{script}</script>" for script in behind)
        + "</body></html>\n"
    )


def _section(place: int, section: Section) -> str:
    parts = [
        f'<section id="{_id(place)}" aria-labelledby="{_id(place)}-title">'
        f'<h2 id="{_id(place)}-title">{escaped(section.title)}</h2>',
        *(text_html("cna-lead", text) for text in section.lead),
        facts_html(section.facts) if section.facts else "",
        _list("Bear in mind", "cna-caveats", section.caveats),
        layer_bars(section.per_layer) if section.per_layer is not None else "",
        *map(_picture, section.pictures),
        *map(table_markup, section.tables),
        *section.views,
        _commands(section.commands),
        "</section>",
    ]
    return "".join(parts)


def _list(heading: str, name: str, texts: Sequence[str]) -> str:
    if not texts:
        return ""
    entries = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f'<aside class="{name}"><h3>{heading}</h3><ul>{entries}</ul></aside>'


def _commands(commands: Sequence[str]) -> str:
    if not commands:
        return ""
    lines = "\n".join(map(escaped, commands))
    return f'<h3>To have it again</h3><pre tabindex="0"><code>{lines}</code></pre>'


def _picture(picture: Picture) -> str:
    kind = {"svg": "svg+xml", "png": "png"}[picture.form]
    image = b64encode(picture.image).decode()
    return (
        '<figure class="cna-figure" tabindex="0">'
        f'<img alt="{escaped(picture.description)}" width="{picture.width}" '
        f'style="min-width:{min(picture.width, 620)}px" src="data:image/{kind};base64,{image}">'
        "</figure>"
    )


def _id(place: int) -> str:
    return f"section-{place}"


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(
        f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _style() -> str:
    return (files("cna_lens.report") / "report.css").read_text(encoding="utf-8")
