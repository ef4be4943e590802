"""A report with every kind of result, in a real Chromium without a network."""

import pytest
import readers_model
import results
from browser import Browser, contrast
from report_results import everything, hostile_texts

from cna_lens import viz
from cna_lens.cli import demo
from cna_lens.report import Section, make_report

pytestmark = pytest.mark.browser

VIEWS = "[...document.querySelectorAll('[data-circuitsvis]')]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def with_tokens(report):
    page = viz.show_tokens(results.token_activations(model=results.HOSTILE))
    return report.with_section(Section("Tokens", views=page.bodies))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    reports = {
        "plain": make_report(everything(), title="A report"),
        "hostile": make_report(everything(hostile_texts()), title=results.HOSTILE),
    }
    return {
        name: with_tokens(report).save(folder / f"{name}.html") for name, report in reports.items()
    } | {"demo": demo_report(tmp_path_factory.mktemp("demo"))}


def demo_report(folder):
    """The report that `cna-lens demo` writes for a tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "cna_lens.models.loading.load.load_model",
            lambda name, **_: readers_model.bridge(),
        )
        patch.setattr(demo, "MAX_NEW_TOKENS", 4)
        demo.run("demo", folder, n_prompts=2, verbose=False)
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["plain", "hostile", "demo"])
def test_a_report_is_silent_asks_for_nothing_and_fits(browser, saved, name, width, scheme):
    browser.open(saved[name], width, scheme)
    assert browser.complaints() == []
    assert browser.requests() == []
    title = browser.evaluate("document.title")
    assert title != "executed"
    assert browser.evaluate("document.querySelector('h1').innerText") == title
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    ink, ground = browser.evaluate(
        """(() => { const style = getComputedStyle(document.body);
                    return [style.color, style.backgroundColor]; })()"""
    )
    assert contrast(ink, ground) > 7
    assert (contrast(ground, "rgb(255, 255, 255)") < 1.1) == (scheme == "light")


@pytest.mark.parametrize("name", ["plain", "hostile"])
def test_sections_figures_tables_and_tokens_are_all_drawn(browser, saved, name):
    assert saved[name].stat().st_size < 3e6
    browser.open(saved[name])
    assert browser.evaluate("document.querySelectorAll('section').length") == 15
    images = browser.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.offsetHeight, i.alt.length])"
    )
    assert len(images) == 11
    assert all(done and width > 100 and height > 50 and alt for done, width, height, alt in images)
    rows = browser.evaluate("[...document.querySelectorAll('tbody')].map(b => b.rows.length)")
    assert len(rows) >= 11
    assert all(rows)
    drawn = browser.evaluate(f"{VIEWS}.map(host => host.querySelectorAll('span > span').length)")
    assert drawn == [12, 3]
    hidden = browser.evaluate(
        """[...document.querySelectorAll('h1, h2, h3, p, dt, dd, li, td, th, caption, code')]
            .filter(e => !e.closest('.cna-view') && e.textContent && !e.offsetHeight).length"""
    )
    assert hidden == 0


def test_the_demos_report_shows_its_circuit_answers_and_tokens(browser, saved):
    assert saved["demo"].stat().st_size < 3e6
    browser.open(saved["demo"])
    headings = browser.evaluate("[...document.querySelectorAll('h2')].map(h => h.innerText)")
    assert [heading.split(":")[0] for heading in headings] == [
        "What was found",
        "What was asked",
        "Circuit",
        "Circuit",
        "Answers",
        "Tokens",
        "To reproduce",
    ]
    drawn = browser.evaluate(f"{VIEWS}.map(host => host.querySelectorAll('span > span').length)")
    assert len(drawn) == 2
    assert min(drawn) > 5
    grounds = browser.evaluate(
        f"""{VIEWS}.flatMap(host => [...host.querySelectorAll('span > span')])
            .map(token => getComputedStyle(token).backgroundColor)"""
    )
    assert len(set(grounds)) > 5


def test_a_script_that_is_not_the_pages_own_is_not_run(browser, saved, tmp_path):
    page = saved["plain"].read_text(encoding="utf-8")
    slipped_in = "<script>document.title = 'executed'</script><img src=x onerror=document.title=1>"
    path = tmp_path / "altered.html"
    path.write_text(page.replace("</main>", f"{slipped_in}</main>"), encoding="utf-8")
    browser.open(path)
    assert browser.evaluate("document.title") == "A report"
    assert len(browser.complaints()) >= 2


def test_a_table_is_sorted_and_a_section_reached_by_keyboard(browser, saved):
    browser.open(saved["plain"])

    def press(key, code):
        for kind in ("keyDown", "keyUp"):
            browser.send(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}),
            )  # fmt: skip

    focused = "document.activeElement.textContent"
    press("Tab", 9)
    assert browser.evaluate(focused) == "Skip the contents"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    press("Enter", 13)
    assert browser.evaluate("document.activeElement.id") == "main"
    for _ in range(200):
        press("Tab", 9)
        if browser.evaluate(focused) == "score":
            break
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press("Enter", 13)
    scores = browser.evaluate(
        """[...document.activeElement.closest('table').tBodies[0].rows]
            .map(row => Number(row.cells[3].textContent))"""
    )
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0 > scores[-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_printed_report_is_black_on_white_and_complete(browser, saved, scheme):
    browser.open(saved["plain"], scheme=scheme)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.send("Emulation.setEmulatedMedia", media="print", features=features)
    try:
        colours = browser.evaluate(
            """(() => { const style = getComputedStyle(document.body);
                        return [style.color, style.backgroundColor]; })()"""
        )
        assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
        cut = browser.evaluate(
            """[...document.querySelectorAll('.cna-scroll')]
                .filter(e => getComputedStyle(e).maxHeight != 'none').length"""
        )
        assert cut == 0
        assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")


def test_without_scripts_everything_is_still_shown(browser, saved):
    browser.open(saved["plain"], scripts=False)
    counts = "['section', 'table', 'img'].map(tag => document.querySelectorAll(tag).length)"
    assert browser.evaluate(counts)[0] == 15
    assert min(browser.evaluate(counts)) >= 10
    tokens = browser.evaluate(f"{VIEWS}[0].children.length")
    assert tokens == 12
