"""Sections as one HTML file that needs no network and runs only its own scripts."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from cna_lens.report.sections import Picture, Section
from cna_lens.results.rendering import escaped, text_html
from cna_lens.results.rendering.html import asset, facts_html, layer_bars, table_markup


def page_html(title: str, sections: Sequence[Section], scripts: Sequence[str] = ()) -> str:
    """The file: contents, each section with its caveats, and at the end how to reproduce them.

    The policy in its head allows these scripts by their hashes, and images in the file itself. No
    other script runs and no network is asked, whatever the texts hold.

    >>> page_html("<b>", [Section("A & B")]).count("&lt;b&gt;")
    2

    Args:
        title: of the file.
        sections: in their order.
        scripts: that `views` need; the script that sorts tables is always there.
    """
    behind = (*(scripts if any(section.views for section in sections) else ()), asset("sort.js"))
    parts = [(section.title, _section(section)) for section in sections]
    if reproduction := "".join(map(_reproduction, sections)):
        parts.append(("To reproduce", reproduction))
    contents = "".join(
        f'<li><a href="#section-{place}">{escaped(heading)}</a></li>'
        for place, (heading, _) in enumerate(parts)
    )
    main = "".join(
        f'<section id="section-{place}" aria-labelledby="section-{place}-title">'
        f'<h2 id="section-{place}-title">{escaped(heading)}</h2>{body}</section>'
        for place, (heading, body) in enumerate(parts)
    )
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


def _section(section: Section) -> str:
    return "".join(
        [
            *(text_html("cna-lead", text) for text in section.lead),
            facts_html(section.facts) if section.facts else "",
            layer_bars(section.per_layer) if section.per_layer is not None else "",
            *map(_picture, section.pictures),
            *map(table_markup, section.tables),
            *section.views,
            _caveats(section.caveats),
        ]
    )


def _reproduction(section: Section) -> str:
    if not section.provenance and not section.commands:
        return ""
    commands = "\n".join(map(escaped, section.commands))
    return (
        f"<h3>{escaped(section.title)}</h3>"
        + (facts_html(section.provenance) if section.provenance else "")
        + (f'<pre tabindex="0"><code>{commands}</code></pre>' if commands else "")
    )


def _caveats(texts: Sequence[str]) -> str:
    if not texts:
        return ""
    entries = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return f'<aside class="cna-caveats"><h3>Bear in mind</h3><ul>{entries}</ul></aside>'


def _picture(picture: Picture) -> str:
    kind = {"svg": "svg+xml", "png": "png"}[picture.form]
    image = b64encode(picture.image).decode()
    return (
        '<figure class="cna-figure" tabindex="0">'
        f'<img alt="{escaped(picture.description)}" width="{picture.width}" '
        f'style="min-width:{min(picture.width, 620)}px" src="data:image/{kind};base64,{image}">'
        "</figure>"
    )


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
