"""The code on the pages of the documentation runs, on tiny models and few prompts."""

import ast
import re
from dataclasses import replace
from functools import partial

import harness_tasks
import pytest
import readers_model
import tiny_moe
from pages import PAGES, ROOT, blocks, name_of

import cna_lens
import cna_lens.metrics

WITH_CODE = [page for page in (*PAGES, ROOT / "README.md") if blocks(page, "python")]


def small(name):
    """A packaged prompt set, cut to a few prompts, which a tiny model answers quickly."""
    whole = cna_lens.models.prompts.sets.prompt_set(name)
    parts = ("positive", "negative", "targets", "foils")
    return replace(whole, **{part: getattr(whole, part)[:4] for part in parts})


def written(pages):
    """The strings in the pages' code."""
    for page in pages:
        for block in blocks(page, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def stand_in(page):
    """A `load_model` for a page: its tiny model has every layer that the page names."""
    named = map(int, re.findall(r"layer=(\d+)", "".join(blocks(page, "python"))))
    n_layers = max(readers_model.N_LAYERS, *(layer + 2 for layer in named), 0)
    packaged = cna_lens.load_model

    def load_model(name, **options):
        if str(name).startswith("compiled/"):
            return packaged(name, **options)
        if "OLMoE" in str(name):
            return tiny_moe.bridge("olmoe")
        return readers_model.bridge(tuple(written(WITH_CODE)), n_layers)

    return load_model


def three_neurons(model):
    """Stands for the planted neurons on a page."""
    layout = cna_lens.collect(model, ["Hello."]).layout
    return cna_lens.Circuit(tuple(map(layout.neuron, range(3))), (1.0,) * 3, layout)


@pytest.fixture
def reader(page, monkeypatch, tmp_path):
    """A reader in an empty folder, with small models and few prompts."""
    rows = harness_tasks.random_choices(12)
    tasks = harness_tasks.multiple_choice(tmp_path / "tasks", rows, name="arc_easy")
    run_lm_eval = partial(cna_lens.metrics.run_lm_eval, include_path=tasks)
    monkeypatch.setattr(cna_lens.metrics, "run_lm_eval", run_lm_eval)
    load_model = stand_in(page)
    monkeypatch.setattr(cna_lens, "load_model", load_model)
    monkeypatch.setattr(cna_lens, "planted_truth", lambda name: three_neurons(load_model(name)))
    # The defaults, which pages may leave unchanged, are for a real model.
    quick = partial(cna_lens.compare, strengths=[1.0], max_new_tokens=4)
    monkeypatch.setattr(cna_lens, "compare", quick)
    monkeypatch.setattr(cna_lens, "prompt_set", small)
    monkeypatch.chdir(tmp_path)
    with harness_tasks.data_sets_offline(tmp_path / "data sets"):
        yield


@pytest.mark.long
# A compiled program takes none.
@pytest.mark.filterwarnings("ignore:.*takes no cache")
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_the_code_of_a_page_runs(page, reader):
    namespace = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, name_of(page), "exec"), namespace)
