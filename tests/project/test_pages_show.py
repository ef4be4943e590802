"""Pages show the output of their code, and a failing block stops the build."""

import re
import tomllib

import pytest
from markdown import Markdown
from pages import DOCS, ROOT, blocks
from zensical.extensions.context import ContextExtension, Page

from docs import extension

PAGE = """# A page

```python
x = 6
```

Text.

```python
print(x * 7, "<b>")
x
```

```text
print("not run")
```
"""


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(extension, "KEPT", tmp_path / "pages")


def html(text, runs=("page.md",)):
    context = ContextExtension(page=Page(url="", path="page.md"), config={})
    docs = extension.makeExtension(runs=list(runs))
    return Markdown(extensions=[context, docs, "pymdownx.superfences"]).convert(text)


def shown(page):
    return re.findall(r'<pre class="output"><code>(.*?)</code></pre>', page, re.DOTALL)


def test_a_block_is_followed_by_what_it_printed_and_showed():
    page = html(PAGE)
    assert shown(page) == ["42 &lt;b&gt;", "6"]
    assert page.index("Text.") < page.index("print") < page.index("42")


def test_an_object_shows_its_own_html():
    code = "class Figure:\n    def _repr_html_(self):\n        return '<svg></svg>'\nFigure()\n"
    assert "<svg></svg>" in html(f"```python\n{code}```\n")


def test_a_block_that_prints_only_spaces_shows_nothing():
    assert shown(html("```python\nprint(' ')\n```\n")) == []


def test_a_page_that_is_not_listed_shows_no_output():
    assert shown(html(PAGE, runs=())) == []


@pytest.mark.parametrize(
    ("code", "line", "error"),
    [
        ("y = 1\nx.missing\n", 11, "AttributeError"),
        ("y = 1\n\nx = (\n", 12, "SyntaxError"),
        ("def f():\n    return 1 / 0\n\nf()\n", 13, "ZeroDivisionError"),
    ],
)
def test_a_block_that_fails_stops_the_build_with_page_and_line(code, line, error):
    text = PAGE.replace('print(x * 7, "<b>")\nx\n', code)
    with pytest.raises(ValueError, match=rf"^page\.md, line {line}: {error}: "):
        html(text)
    assert not extension.KEPT.exists()


def test_a_warning_of_a_block_stops_the_build():
    with pytest.raises(ValueError, match=r"page\.md wrote to its standard error: .*few prompts"):
        html("```python\nimport warnings\nwarnings.warn('few prompts')\n```\n")


def test_a_second_build_runs_nothing_until_the_code_or_the_package_changes(monkeypatch):
    ran = []

    def run(notebook, name):
        ran.append(name)
        return notebook

    monkeypatch.setattr(extension.notebooks, "run", run)
    html(PAGE)
    html(PAGE)
    assert len(ran) == 1
    html(PAGE.replace("x = 6", "x = 7"))
    assert len(ran) == 2
    monkeypatch.setattr(extension, "sources_hash", lambda: "another package")
    html(PAGE)
    assert len(ran) == 3


def test_the_pages_that_are_run_exist_and_use_only_the_demo_models():
    project = tomllib.loads((ROOT / ".zensical.toml").read_text())["project"]
    runs = project["markdown_extensions"]["docs.extension"]["runs"]
    assert "tutorial.md" in runs
    for path in runs:
        code = "".join(blocks(DOCS / path, "python"))
        assert set(re.findall(r'load_model\("(.*?)"', code)) <= {"demo", "demo-refusal"}
