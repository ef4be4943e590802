"""Markdown as the docstrings of cna_lens write it: doctests, formulas, names in backticks."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path as FilePath
from typing import Any
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

REFERENCE = FilePath(__file__).parent / "reference"
FORMULA = r"(?<![\\$\w])(\${1,2})(?![\s$])([^$]+?)(?<!\s)\1(?![\w$])"
NAME = r"(?<!`)`((?:\w+\.)*\w+)(?:\(\))?`(?!`)"
FONT = FontProperties(math_fontfamily="cm", size=10)
COMMANDS = {
    Path.MOVETO: "M",
    Path.LINETO: "L",
    Path.CURVE3: "Q",
    Path.CURVE4: "C",
    Path.CLOSEPOLY: "Z",
}


class DocsExtension(Extension):
    """Doctests become code, formulas images that need no script, public names links."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register the three: names before code, formulas between code and escapes."""
        md.preprocessors.register(Doctests(md), "doctests", 35)
        md.inlinePatterns.register(PublicName(NAME, md), "public_name", 192)
        md.inlinePatterns.register(Formula(FORMULA, md), "formula", 185)


def makeExtension(**options: Any) -> DocsExtension:  # noqa: N802
    """What Markdown calls."""
    return DocsExtension(**options)


class Doctests(Preprocessor):
    """Puts the examples of docstrings into fences; Markdown takes `>>>` for quotations."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines, with a fence around each example."""
        fenced: list[str] = []
        example = elsewhere = False
        for line in lines:
            elsewhere ^= line.lstrip().startswith("```")
            if line.startswith(">>> ") and not example and not elsewhere:
                fenced.append("```pycon")
                example = True
            elif example and not line.strip():
                fenced.append("```")
                example = False
            fenced.append(line)
        return [*fenced, "```"] if example else fenced


class Formula(InlineProcessor):
    """LaTeX between dollars, drawn by Matplotlib; two dollars put it on a line of its own."""

    def handleMatch(  # noqa: N802
        self,
        match: re.Match[str],
        data: str,  # noqa: ARG002
    ) -> tuple[str, int, int]:
        """Where the drawing will stand."""
        displayed = match[1] == "$$"
        drawing = drawn(" ".join(match[2].split()), displayed=displayed)
        if displayed:
            drawing = f'<span class="displayed">{drawing}</span>'
        return self.md.htmlStash.store(drawing), match.start(), match.end()


class PublicName(InlineProcessor):
    """A public name in backticks, as a link to its place in the reference."""

    def handleMatch(  # noqa: N802
        self,
        match: re.Match[str],
        data: str,  # noqa: ARG002
    ) -> tuple[Element | None, int | None, int | None]:
        """The link, or nothing where the name is not public."""
        parts = match[1].removeprefix("cna_lens.").split(".")
        for size in (2, 1):
            path = public_names().get(".".join(parts[:size]))
            if path is not None:
                return self._link(".".join(["cna_lens", path, *parts[size:]]), match)
        return None, None, None

    def _link(self, target: str, match: re.Match[str]) -> tuple[Element, int, int]:
        link = Element("autoref", {"identifier": target, "optional": ""})
        code = Element("code")
        code.text = match[0].strip("`")
        link.append(code)
        return link, match.start(), match.end()


@cache
def drawn(latex: str, *, displayed: bool) -> str:
    """A formula as SVG in the text's colour and size, standing on the text's line."""
    # Matplotlib draws every formula as if it stood within a line.
    styled = latex.replace(r"\frac", r"\dfrac") if displayed else latex
    path = TextPath((0, 0), f"${styled}$", prop=FONT)
    box = path.get_extents()
    steps = (
        COMMANDS[code] + " ".join(f"{x:.2f} {-y:.2f}" for x, y in points.reshape(-1, 2))
        if code != Path.CLOSEPOLY
        else "Z"
        for points, code in path.iter_segments(simplify=False)
    )
    em = FONT.get_size()
    return (
        f'<svg class="formula" role="img" aria-label="{html.escape(latex)}"'
        f' viewBox="{box.x0:.2f} {-box.y1:.2f} {box.width:.2f} {box.height:.2f}"'
        f' style="width:{box.width / em:.3f}em;height:{box.height / em:.3f}em;'
        f'vertical-align:{box.y0 / em:.3f}em"><path d="{"".join(steps)}"/></svg>'
    )


@cache
def public_names() -> dict[str, str]:
    """What may stand in backticks for what is in the reference, and its path below cna_lens."""
    found: dict[str, str] = {}
    for page in sorted(REFERENCE.glob("*.md")):
        for path in re.findall(r"^::: cna_lens\.(\S+)$", page.read_text(), re.MULTILINE):
            package, _, _ = path.partition(".")
            name = path.rpartition(".")[2]
            found[f"{package}.{name}"] = path
            # Names of views are too common to stand alone: `layers` is an argument elsewhere.
            if package not in ("audit", "viz"):
                found[name] = path
    return found
