"""Markdown for the documentation: code that is run, doctests, formulas, links to public names."""

from __future__ import annotations

import hashlib
import html
import json
import re
from functools import cache
from pathlib import Path as FilePath
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

import nbformat
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from nbclient.exceptions import CellExecutionError
from zensical.extensions.context import ContextPreprocessor

from examples import notebooks

ROOT = FilePath(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
KEPT = ROOT / "out" / "pages"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINE_OF_CELL = re.compile(r"Cell In\[\d+\], line (\d+)")
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


class Block(NamedTuple):
    """Python code on a page, and the line of the page where it begins."""

    code: str
    line: int


class DocsExtension(Extension):
    """Shows the output of code, turns doctests into code, draws formulas and links public names."""

    def __init__(self, **options: Any) -> None:
        """Take the settings that .zensical.toml gives."""
        self.config = {"runs": [[], "the pages whose code is run, by their paths below docs"]}
        super().__init__(**options)

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Register the four processors.

        Outputs are added after Markdown has removed placeholders, and before it reads fences. Names
        are found before code, formulas between code and escapes.
        """
        md.preprocessors.register(Doctests(md), "doctests", 35)
        md.preprocessors.register(Outputs(md, self.getConfig("runs")), "outputs", 28)
        md.inlinePatterns.register(PublicName(NAME, md), "public_name", 192)
        md.inlinePatterns.register(Formula(FORMULA, md), "formula", 185)


def makeExtension(**options: Any) -> DocsExtension:  # noqa: N802
    """Make the extension; Markdown calls this."""
    return DocsExtension(**options)


class Outputs(Preprocessor):
    """Puts behind each Python block of a page what it printed and showed."""

    def __init__(self, md: Markdown, runs: list[str]) -> None:
        """Take the pages that are run."""
        super().__init__(md)
        self.runs = runs

    def run(self, lines: list[str]) -> list[str]:
        """Return the lines, with outputs if the page is one of those that are run."""
        context = ContextPreprocessor.from_markdown(self.md)
        if context is None or context.page.path not in self.runs:
            return lines
        text = "\n".join(lines)
        blocks = [
            Block(match[1], text.count("\n", 0, match.start(1)) + 1)
            for match in PYTHON.finditer(text)
        ]
        shown = iter(outputs(context.page.path, blocks))

        def with_output(match: re.Match[str]) -> str:
            output = next(shown)
            return f"{match[0]}\n\n{self.md.htmlStash.store(output)}\n" if output else match[0]

        return PYTHON.sub(with_output, text).split("\n")


class Doctests(Preprocessor):
    """Puts the examples of docstrings into fences; Markdown takes `>>>` for quotations."""

    def run(self, lines: list[str]) -> list[str]:
        """Return the lines, with a fence around each example."""
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
    """Draws LaTeX between dollars with Matplotlib; two dollars put it on a line of its own."""

    def handleMatch(  # noqa: N802
        self,
        match: re.Match[str],
        data: str,  # noqa: ARG002
    ) -> tuple[str, int, int]:
        """Return a placeholder for the drawing."""
        displayed = match[1] == "$$"
        drawing = drawn(" ".join(match[2].split()), displayed=displayed)
        if displayed:
            drawing = f'<span class="displayed">{drawing}</span>'
        return self.md.htmlStash.store(drawing), match.start(), match.end()


class PublicName(InlineProcessor):
    """Links a public name in backticks to its place in the reference."""

    def handleMatch(  # noqa: N802
        self,
        match: re.Match[str],
        data: str,  # noqa: ARG002
    ) -> tuple[Element | None, int | None, int | None]:
        """Return the link, or nothing where the name is not public."""
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


def outputs(page: str, blocks: list[Block]) -> list[str]:
    """Run the blocks of a page in one namespace and return what each showed, as HTML.

    The result is kept in out/pages until the code or the package changes.

    Raises:
        ValueError: a block failed, with the page and the line, or wrote to its standard error.
    """
    content = json.dumps([[code for code, _ in blocks], sources_hash()])
    kept = KEPT / f"{hashlib.sha256(content.encode()).hexdigest()}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    cells = [nbformat.v4.new_code_cell(code) for code, _ in blocks]
    notebook = nbformat.v4.new_notebook(cells=cells)
    try:
        notebooks.run(notebook, page)
    except CellExecutionError as error:
        line = failed_line(notebook, blocks)
        raise ValueError(f"{page}, line {line}: {error.ename}: {error.evalue}") from error
    shown = ["".join(map(output_html, cell.outputs)) for cell in notebook.cells]
    KEPT.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(shown), encoding="utf-8")
    return shown


def failed_line(notebook: nbformat.NotebookNode, blocks: list[Block]) -> int:
    """Return the line of the page on which its notebook failed."""
    for cell, block in zip(notebook.cells, blocks, strict=True):
        for output in cell.outputs:
            if output.output_type == "error":
                # IPython colours its tracebacks.
                traceback = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output.traceback))
                lines = LINE_OF_CELL.findall(traceback)
                return block.line + (int(lines[0]) - 1 if lines else 0)
    raise ValueError("no cell of the notebook failed")


def output_html(output: nbformat.NotebookNode) -> str:
    """Return an output as HTML: an object's own where it has any, text otherwise."""
    data = output.get("data", {})
    if "text/html" in data:
        return data["text/html"]
    text = html.escape((output.get("text") or data["text/plain"]).rstrip())
    return f'<pre class="output"><code>{text}</code></pre>' if text else ""


@cache
def sources_hash() -> str:
    """Return a hash of the package's files and of this one."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "cna_lens").rglob("*"), FilePath(__file__)]):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(ROOT)} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def drawn(latex: str, *, displayed: bool) -> str:
    """Draw a formula as SVG in the text's colour and size, on the text's baseline."""
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
    """Map each name that is linked in backticks to its path below cna_lens in the reference."""
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
