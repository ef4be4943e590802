"""The league table on the page has the figures that the bench wrote."""

import json
import re

import pytest
from pages import DOCS, ROOT

from cna_lens import planted_models

COLUMNS = ("auroc", "auroc_within_layers", "precision", "share_of_oracle", "kl")


@pytest.mark.parametrize("split", ["tuning", "reporting"])
def test_each_row_is_of_the_results(split):
    results = ROOT / "experiments" / "results" / f"planted_{split}.json"
    figures = json.loads(results.read_text(encoding="utf-8"))["figures"]
    page = (DOCS / "truth.md").read_text(encoding="utf-8")
    (model,) = {row["model"] for row in figures}
    assert planted_models(split) == (model,)
    table = page.split(f"`{model}`; ablating")[1].split("\n\n")[1]
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", table, re.MULTILINE))
    del rows["ranking"]
    assert len(rows) == len(figures)
    for row in figures:
        shown = [f"{row[name]:.2f}" for name in (*COLUMNS, "lost_by_unplanted")]
        assert rows[row["ranking"].partition("(")[0]].split(" | ") == shown
