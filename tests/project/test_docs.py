"""The reference is complete, links lead somewhere, commands exist, and Markdown is rendered."""

import importlib
import inspect
import re
import shlex
import tomllib

import griffe
import pytest
import typer
from markdown import markdown
from markdown.extensions.toc import slugify
from pages import DOCS, FENCE, PAGES, REFERENCE, ROOT, TEXTS, blocks, name_of

from cna_lens.cli.app import app

COMMAND_LINE = typer.main.get_command(app)
PACKAGES = [
    "cna_lens",
    *(f"cna_lens.{path.parent.name}" for path in (ROOT / "cna_lens").glob("*/*.pyi")),
]


# The reference


def documented():
    """The full name of everything that the pages of the reference document."""
    texts = [page.read_text() for page in sorted(REFERENCE.glob("*.md"))]
    return [name for text in texts for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]


def public(module):
    """A package's public names with their values, without modules."""
    package = importlib.import_module(module)
    found = {f"{module}.{name}": getattr(package, name) for name in package.__all__}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


def values():
    """The documented values; a package that is named itself stands for all its public values."""
    for name in documented():
        if name in PACKAGES:
            yield from public(name).values()
        else:
            module, _, attribute = name.rpartition(".")
            yield getattr(importlib.import_module(module), attribute)


def test_the_reference_names_nothing_twice():
    found = [id(value) for value in values()]
    assert len(found) == len(set(found)) > 100


@pytest.mark.parametrize("module", PACKAGES)
def test_the_reference_has_every_public_name(module):
    found = {id(value) for value in values()}
    assert [name for name, value in public(module).items() if id(value) not in found] == []


def test_no_module_is_documented_in_place_of_what_bears_its_name():
    package = griffe.load("cna_lens", search_paths=[ROOT])
    modules = [name for name in documented() if package[name.removeprefix("cna_lens.")].is_module]
    assert modules == ["cna_lens.audit"]


def commands_of(group, before=""):
    """Each command with its full name; a group of commands is replaced by its commands."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_the_command_line_page_has_every_command_and_option():
    text = (REFERENCE / "command_line.md").read_text()
    sections = dict(re.findall(r"^## ([\w ]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    commands = dict(commands_of(COMMAND_LINE))
    assert set(sections) == set(commands)
    for name, command in commands.items():
        options = {
            flag
            for parameter in command.params
            if parameter.param_type_name == "option"
            for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        table = re.findall(r"^\| (`--.*?) \|", sections[name], re.MULTILINE)
        shown = {flag for cell in table for flag in re.findall(r"--[\w-]+", cell)}
        assert shown == options - {"--help"}, name


# Markdown as the docstrings write it


def html(text):
    return markdown(text, extensions=["docs.extension", "pymdownx.superfences"])


def test_an_example_becomes_code_up_to_the_next_empty_line():
    page = html("Before.\n\n>>> 1 + 1\n2\n\nAfter.")
    assert "<blockquote>" not in page
    assert re.search(r"<code[^>]*>.*1.*2", page, re.DOTALL)
    assert "<p>After.</p>" in page


def test_a_fence_that_shows_an_example_stays_one_fence():
    assert html("```pycon\n>>> 1\n1\n```").count("<code") == 1


def test_a_formula_is_drawn_and_can_be_read_out():
    page = html(r"With $a_{l,j}$ and $$\frac{a}{b} \mid c < d$$ there.")
    assert page.count("<svg") == 2
    assert 'aria-label="a_{l,j}"' in page
    assert r'aria-label="\frac{a}{b} \mid c &lt; d"' in page
    assert page.count('class="displayed"') == 1
    assert "$" not in page


def test_money_and_code_are_no_formulas():
    assert "<svg" not in html("From $5 to $6, and `$OUT/$X`.")


@pytest.mark.parametrize(
    ("written", "target"),
    [
        ("find_circuit", "cna_lens.find_circuit"),
        ("cna_lens.steer", "cna_lens.steer"),
        ("NeuronScores.top", "cna_lens.NeuronScores.top"),
        ("metrics.mmlu", "cna_lens.metrics.mmlu"),
        ("refusal_log_odds", "cna_lens.metrics.refusal_log_odds"),
        ("is_refusal", "cna_lens.is_refusal"),
        ("viz.layers", "cna_lens.viz.layers"),
    ],
)
def test_a_public_name_in_backticks_is_linked(written, target):
    page = html(f"See `{written}`.")
    assert f'identifier="{target}"' in page
    assert f"<code>{written}</code>" in page


@pytest.mark.parametrize("written", ["layers", "position", "rank=", "``find_circuit``"])
def test_other_code_is_not_linked(written):
    assert "autoref" not in html(f"See `{written}`.")


# Links


def prose(page):
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "`code`", FENCE.sub("", page.read_text()))


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {slugify(heading.replace("`", ""), "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_every_relative_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def nav_pages(nav):
    for entry in nav:
        for target in entry.values():
            yield from nav_pages(target) if isinstance(target, list) else [target]


def test_the_navigation_has_every_page_once():
    project = tomllib.loads((ROOT / ".zensical.toml").read_text())["project"]
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert sorted(nav_pages(project["nav"])) == sorted(pages)


def test_the_notebooks_page_has_every_notebook():
    links = re.findall(r'<a href="notebooks/(\w+)\.html">', (DOCS / "notebooks.md").read_text())
    assert links == sorted(path.stem for path in (ROOT / "examples").glob("*.ipynb"))


# Commands


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_commands_of_a_page_are_ones_that_exist(page):
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "cna-lens":
                name, *rest = arguments
                COMMAND_LINE.commands[name].make_context(name, rest)
