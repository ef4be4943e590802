"""Every notebook, exported to HTML, in a real Chromium without a network."""

import pytest
from browser import DRAWN, Browser, contrast

from examples.notebooks import SOURCES, code_cells, page, read

pytestmark = pytest.mark.browser

NAMES = [source.stem for source in SOURCES]
each_name = pytest.mark.parametrize("name", NAMES)
NOTEBOOKS = {source.stem: read(source) for source in SOURCES}
TOKENS = "[...document.querySelectorAll('[data-circuitsvis] div div span > span')]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    for name, notebook in NOTEBOOKS.items():
        (folder / f"{name}.html").write_text(page(notebook, name), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in NOTEBOOKS}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@each_name
def test_a_notebook_is_silent_asks_for_nothing_and_fits(browser, saved, name, width, scheme):
    browser.open(saved[name], width, scheme)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    for colours in browser.evaluate(
        """[...document.querySelectorAll(".cna")].map(view => {
             const style = getComputedStyle(view);
             return [style.color, style.backgroundColor]; })"""
    ):
        assert contrast(*colours) > 7


@each_name
def test_every_cell_and_every_output_is_drawn(browser, saved, name):
    notebook = NOTEBOOKS[name]
    browser.open(saved[name])
    code = "[...document.querySelectorAll('.jp-CodeCell .jp-InputArea-editor')]"
    assert browser.evaluate(f"{code}.map(cell => cell.innerText.trim())") == [
        cell.source for cell in notebook.cells if cell.cell_type == "code"
    ]
    shown = browser.evaluate(
        """[...document.querySelectorAll('.jp-OutputArea-output')].map(output =>
             output.offsetHeight && (output.innerText.trim().length
                                     || output.querySelectorAll('img, svg').length))"""
    )
    assert len(shown) == sum(len(cell.outputs) for cell in code_cells(notebook))
    assert all(shown)
    images = browser.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.offsetHeight, i.alt.length])"
    )
    assert all(done and width > 100 and height > 50 and alt for done, width, height, alt in images)
    rows = browser.evaluate("[...document.querySelectorAll('tbody')].map(b => b.rows.length)")
    assert all(rows)
    # JupyterLab's own style must neither wrap terms nor move the text of cells from the left.
    lines = browser.evaluate(
        """[...document.querySelectorAll('.cna dt')].map(term => {
             const words = document.createRange();
             words.selectNodeContents(term);
             return words.getClientRects().length; })"""
    )
    assert set(lines) <= {1}
    aligned = (
        "[...document.querySelectorAll('.cna .cna-text')].map(c => getComputedStyle(c).textAlign)"
    )
    assert set(browser.evaluate(aligned)) <= {"left"}


def test_tokens_of_the_sixth_notebook_are_coloured_by_the_picked_neuron(browser, saved):
    browser.open(saved["06_read_a_neuron"])
    texts = browser.evaluate(f"{TOKENS}.map(token => token.textContent.trim())")
    assert len(texts) > 200
    assert all(texts)
    grounds = f"{TOKENS}.map(token => getComputedStyle(token).backgroundColor)"
    before = browser.evaluate(grounds)
    assert len(set(before)) > 50
    browser.evaluate(
        """(() => { const picker = document.querySelector("select");
             picker.selectedIndex = 5; picker.dispatchEvent(new Event("change")); })()"""
    )
    browser.wait_for(DRAWN)
    assert browser.evaluate(grounds) != before


def test_tables_are_sorted_by_a_click(browser, saved):
    browser.open(saved["01_find_a_refusal_circuit"])
    column = """[...document.querySelector('.cna-table tbody').rows]
                  .map(row => Number(row.cells[3].textContent))"""
    assert browser.evaluate(column) == sorted(browser.evaluate(column), key=abs, reverse=True)
    browser.evaluate("document.querySelectorAll('.cna-table th')[3].click()")
    assert browser.evaluate(column) == sorted(browser.evaluate(column), reverse=True)


@each_name
def test_without_scripts_everything_is_still_shown(browser, saved, name):
    browser.open(saved[name], scripts=False)
    # DevTools can still evaluate scripts on a page that may not run any.
    empty = browser.evaluate(
        """[...document.querySelectorAll('.jp-OutputArea-output')]
             .filter(o => !o.innerText.trim() && !o.querySelectorAll('img, svg').length).length"""
    )
    assert empty == 0
