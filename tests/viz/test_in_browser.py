"""Every view in a real Chromium without a network: drawn, coloured, without errors or requests."""

import re
from dataclasses import replace
from types import SimpleNamespace

import hub_mirror
import pytest
import results
from browser import DRAWN, Browser, contrast

from cna_lens import viz
from cna_lens.models.tokens.token_texts import token_texts

pytestmark = pytest.mark.browser

LABELS = [
    "<|im_start|>",
    "↵",
    "</script>",
    "<img src=x onerror=document.title='executed'>",
    "&amp;",
    "␣",
    "⋯",
    "⟨U+202E⟩",
    "مرحبا",
    " שלום",
    "⟨U+0000⟩",
    " word",
]
"""`results.HOSTILE_TOKENS` as the pages show them."""

VIEWS = {
    "tokens": lambda: viz.show_tokens(results.token_activations(model=results.HOSTILE)),
    "top_examples": lambda: viz.show_tokens(results.token_activations().strongest(1)),
    "log_probs": lambda: viz.log_probs([results.answer(), results.answer()]),
    "promotes": lambda: viz.show_promoted(results.promoted()),
    "circuit": lambda: viz.page(results.circuit(model=results.HOSTILE), title="circuit"),
    "comparison": lambda: viz.page(results.comparison(), title="comparison"),
    "figure": lambda: viz.page(viz.sweep(results.comparison()), title="figure"),
}
CIRCUITSVIS = ("tokens", "top_examples", "log_probs")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    return {name: view().save(folder / f"{name}.html") for name, view in VIEWS.items()}


def tokens_shown(browser, host=0):
    """Text, ground, ink and size of each token that CircuitsVis has drawn."""
    return browser.evaluate(
        f"""[...document.querySelectorAll("[data-circuitsvis]")[{host}]
            .querySelectorAll("div div span > span")].map(token => {{
              const style = getComputedStyle(token), box = token.getBoundingClientRect();
              return {{text: token.textContent, ground: style.backgroundColor,
                       ink: style.color, width: box.width, height: box.height}};
            }})"""
    )


def plain(text):
    return text.replace("\u2060", "").replace("\u200f", "").replace("\u00a0", " ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_silent_asks_for_nothing_and_fits(browser, saved, name, width, scheme):
    browser.open(saved[name], width, scheme)
    assert browser.complaints() == []
    assert browser.requests() == []
    assert browser.evaluate("document.title") != "executed"
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelector('.cna').innerText").strip() or name == "figure"
    ink, ground = browser.evaluate(
        """(() => { const style = getComputedStyle(document.querySelector(".cna"));
                    return [style.color, style.backgroundColor]; })()"""
    )
    assert contrast(ink, ground) > 7
    assert (contrast(ground, "rgb(255, 255, 255)") < 1.1) == (scheme == "light")


@pytest.mark.parametrize("name", CIRCUITSVIS)
def test_every_token_is_shown_unchanged_and_legible(browser, saved, name):
    browser.open(saved[name])
    shown = tokens_shown(browser)
    assert [plain(token["text"]) for token in shown] == LABELS
    assert all(token["width"] > 2 and token["height"] > 5 for token in shown)
    assert all(contrast(token["ink"], token["ground"]) > 2.5 for token in shown)
    assert len({token["ground"] for token in shown}) > 6


def test_tokens_are_coloured_by_the_neuron_that_is_picked_on_its_own_scale(browser, saved):
    found = results.token_activations()
    browser.open(saved["tokens"])
    for place in range(2):
        browser.evaluate(
            f"""(() => {{ const picker = document.querySelector("select");
                 picker.selectedIndex = {place}; picker.dispatchEvent(new Event("change")); }})()"""
        )
        browser.wait_for(DRAWN)
        largest = max(float(values[1:, place].abs().max()) for values in found.values)
        note = browser.evaluate("document.querySelector('[data-notes]').textContent")
        assert note == f"{largest:.3g} activation"
        for host, values in enumerate(found.values):
            shares = (values[:, place] / largest).tolist()
            for token, share in zip(tokens_shown(browser, host), shares, strict=True):
                red, _, blue = map(int, re.findall(r"\d+", token["ground"])[:3])
                if abs(share) > 0.05:
                    assert (blue > red) == (share > 0)
                if abs(share) >= 1:
                    full = "rgb(0, 114, 178)" if share > 0 else "rgb(213, 94, 0)"
                    assert token["ground"] == full


def test_an_enormous_first_token_leaves_the_others_their_colours(browser, saved, tmp_path):
    found = results.token_activations()
    for values in found.values:
        values[0] = -1e4
    browser.open(saved["tokens"])
    usual = [token["ground"] for token in tokens_shown(browser)]
    browser.open(viz.show_tokens(found).save(tmp_path / "first.html"))
    grounds = [token["ground"] for token in tokens_shown(browser)]
    assert grounds[1:] == usual[1:]
    assert grounds[0] == "rgb(213, 94, 0)"


def test_a_tooltip_shows_the_token_and_executes_nothing(browser, saved):
    browser.open(saved["tokens"])
    x, y = browser.evaluate(
        """(() => { const token = document.querySelectorAll("[data-circuitsvis] div div span")[4];
            const box = token.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; })()"""
    )
    browser.move_to(x, y)
    tooltip = "document.querySelector('[data-popper-interactive]')?.textContent"
    browser.wait_for(tooltip)
    assert "</script>" in plain(browser.evaluate(tooltip))
    assert browser.evaluate("document.title") != "executed"
    assert browser.complaints() == []


def test_a_value_that_is_not_finite_is_written_beside_its_token(browser, tmp_path):
    found = results.token_activations()
    found.values[0][1, 0] = float("nan")
    found.values[0][2, 0] = float("-inf")
    browser.open(viz.show_tokens(found).save(tmp_path / "nan.html"))
    shown = tokens_shown(browser)
    assert [plain(token["text"]) for token in shown[1:4]] == [
        "↵⟨nan⟩",
        "</script>⟨-inf⟩",
        LABELS[3],
    ]
    assert browser.complaints() == []


CHARACTERS = ("你", "好", "👩‍👩‍👧", "e\u0301", "स्ते", *"مرحبا", *"שלום")


@pytest.fixture
def text_of_many_tokens(without_type_checks):
    """The texts of a text's tokens, one token for each byte."""
    tokenizer = hub_mirror.byte_tokenizer(chat=False)
    ids = tokenizer("".join(CHARACTERS), add_special_tokens=False)["input_ids"]
    return token_texts(SimpleNamespace(tokenizer=tokenizer), ids)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["tokens", "log_probs"])
def test_a_character_of_several_tokens_is_shown_once_and_whole(
    browser, tmp_path, text_of_many_tokens, name, width
):
    texts = text_of_many_tokens
    view = {
        "tokens": lambda: viz.show_tokens(results.token_activations(texts)),
        "log_probs": lambda: viz.log_probs([results.answer(texts)]),
    }[name]()
    for scripts in (True, False):
        browser.open(view.save(tmp_path / f"{name}.html"), width, scripts=scripts)
        shown = browser.evaluate("document.querySelector('[data-circuitsvis]').innerText")
        assert plain(shown).replace("⋯", "") == "".join(CHARACTERS)
        assert shown.count("⋯") == len("".join(CHARACTERS).encode()) - len(CHARACTERS)
        assert "⋯ is one more token" in browser.evaluate("document.body.innerText")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_tokens_of_a_right_to_left_script_are_read_from_right_to_left(browser, tmp_path):
    texts = ("<s>", "user", " مر", "حبا", " بك", "", "<end>")
    browser.open(viz.show_tokens(results.token_activations(texts)).save(tmp_path / "rtl.html"))
    ends = browser.evaluate(
        """[...document.querySelectorAll("[data-circuitsvis]")[0]
            .querySelectorAll("div div span > span")]
            .map(token => token.getBoundingClientRect().right)"""
    )
    special, user, hello, half, to_you, mark, end = ends
    assert special < user < mark < to_you < half < hello < end


def test_a_token_of_probability_0_is_shown(browser, tmp_path):
    impossible = results.answer()
    never = replace(impossible.steered[0], log_prob=float("-inf"))
    answer = replace(impossible, steered=(never, *impossible.steered[1:]))
    browser.open(viz.log_probs([answer]).save(tmp_path / "never.html"))
    assert [plain(token["text"]) for token in tokens_shown(browser, 1)] == LABELS
    assert plain(tokens_shown(browser, 2)[0]["text"]) == "<|im_start|>⟨-inf⟩"
    assert browser.complaints() == []


def test_log_probs_stand_side_by_side_and_their_change_below(browser, saved):
    browser.open(saved["log_probs"])
    boxes = browser.evaluate(
        """[...document.querySelectorAll("[data-circuitsvis]")].map(host => {
            const box = host.getBoundingClientRect(); return [box.x, box.y, box.height]; })"""
    )
    (left, top, tall), (right, beside, _), (_, below, _) = boxes[:3]
    assert right > left
    assert beside == top
    assert below > top
    assert tall < 200


def test_the_table_is_sorted_by_mouse_and_keyboard(browser, saved):
    browser.open(saved["circuit"])
    column = (
        "[...document.querySelectorAll('tbody tr')].map(row => Number(row.cells[3].textContent))"
    )
    assert browser.evaluate(column) == sorted(browser.evaluate(column), key=abs, reverse=True)
    browser.evaluate("document.querySelectorAll('th')[3].click()")
    assert browser.evaluate(column) == sorted(browser.evaluate(column), reverse=True)
    browser.evaluate(
        "document.querySelectorAll('th')[3].dispatchEvent(new KeyboardEvent('keydown', {key: ' '}))"
    )
    assert browser.evaluate(column) == sorted(browser.evaluate(column))
    sorted_by = browser.evaluate("document.querySelectorAll('th')[3].getAttribute('aria-sort')")
    assert sorted_by == "ascending"


@pytest.mark.parametrize("name", VIEWS)
def test_without_scripts_everything_is_still_shown(browser, saved, name):
    browser.open(saved[name], scripts=False)
    # DevTools can evaluate even where the page may run no scripts.
    if name in CIRCUITSVIS:
        spans = "[...document.querySelector('[data-circuitsvis]').children].map(t => t.textContent)"
        assert [plain(text) for text in browser.evaluate(spans)] == LABELS
    else:
        assert browser.evaluate("document.querySelectorAll('table, img, svg').length") > 0


def test_nine_views_on_one_page_carry_circuitsvis_once(browser, tmp_path):
    views = [viz.show_tokens(results.token_activations()) for _ in range(9)]
    path = viz.page(*views).save(tmp_path / "nine.html")
    assert path.stat().st_size < 1.5e6
    browser.open(path)
    drawn = "document.querySelectorAll('.colored-tokens').length"
    assert browser.evaluate(drawn) == 18
    assert browser.complaints() == []
    assert browser.requests() == []


def test_in_a_notebook_views_wait_for_the_script_wherever_it_stands(browser, tmp_path, monkeypatch):
    monkeypatch.setattr("cna_lens.viz.pages.pages._Shared.bundle", False)
    alone = viz.show_tokens(results.token_activations())._repr_html_()
    bundle = viz.share_bundle()._repr_html_()
    shared = viz.show_tokens(results.token_activations())._repr_html_()
    assert len(alone) > 1.2e6 > 1e5 > len(shared)
    for place, outputs in enumerate(([bundle, shared, shared], [shared, bundle], [alone, alone])):
        page = tmp_path / f"{place}.html"
        page.write_text(f"<!doctype html><meta charset=utf-8>{''.join(outputs)}", encoding="utf-8")
        browser.open(page)
        n_views = sum('class="cna-view"' in output for output in outputs)
        drawn = browser.evaluate("document.querySelectorAll('.colored-tokens').length")
        assert drawn == 2 * n_views
        assert browser.complaints() == []


@pytest.mark.parametrize(("jupyter", "is_light"), [("true", True), ("false", False)])
def test_jupyters_theme_wins_over_the_systems(browser, tmp_path, jupyter, is_light):
    page = tmp_path / "jupyter.html"
    body = results.circuit()._repr_html_()
    page.write_text(f"<!doctype html><body data-jp-theme-light={jupyter}>{body}", encoding="utf-8")
    browser.open(page, scheme="dark" if is_light else "light")
    ground = browser.evaluate("getComputedStyle(document.querySelector('.cna')).backgroundColor")
    assert (contrast(ground, "rgb(255, 255, 255)") < 1.1) == is_light
