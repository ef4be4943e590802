"""The page of the planted models has the tables of the files that the bench wrote."""

import json

import pytest
from pages import DOCS, ROOT

from cna_lens import LogOdds, compiled_programs, planted_models
from cna_lens.metrics import BEHAVIOURS
from cna_lens.models import planting
from experiments.planted.recipes import recipe_of
from experiments.planted.tables import (
    RANKINGS,
    by_model,
    decoys,
    effects,
    errors,
    from_base,
    interval,
    means,
    number,
    patching,
    percent,
    pruning,
    table,
    tables,
    trial_means,
    trials,
)
from experiments.planted.trials.catalogue import CANDIDATES, REFERENCES
from experiments.planted.trials.figures import NOTHING_PLANTED

RESULTS = ROOT / "experiments" / "results"


def test_each_table_is_that_of_the_results():
    page = (DOCS / "truth.md").read_text(encoding="utf-8")
    assert [name for name, each in tables().items() if each not in page] == []


@pytest.mark.parametrize("split", ["tuning", "reporting"])
def test_the_results_are_of_packaged_models_and_the_page_names_the_others(split):
    bench = json.loads((RESULTS / f"planted_{split}.json").read_text(encoding="utf-8"))
    models = {row["model"] for row in bench["figures"]}
    rankings = {row["ranking"] for row in bench["figures"]}
    assert len(bench["figures"]) == len(models) * len(rankings)
    packaged = {name for name in planted_models(split) if planting(name).behaviour is not None}
    assert models <= packaged
    page = (DOCS / "truth.md").read_text(encoding="utf-8")
    not_run = page.split("## Not run yet")[1].split("\n## ")[0]
    assert [name for name in packaged - models if f"`{name}`" not in not_run] == []
    assert [name for name in models if f"`{name}`" in not_run] == []


def test_every_model_that_was_made_is_told_and_the_others_are_packaged():
    made = json.loads((RESULTS / "planted_models.json").read_text(encoding="utf-8"))
    assert [recipe_of(name).name for name in made] == list(made)
    packaged = {f"planted/{name}" for name, record in made.items() if not record["left_out"]}
    assert packaged == set(planted_models())


def test_every_program_is_in_the_results():
    record = json.loads((RESULTS / "compiled_programs.json").read_text(encoding="utf-8"))
    assert {row["program"] for row in record["figures"]} == set(compiled_programs())


def test_every_candidate_was_tried_on_models_for_tuning_and_the_references_on_all():
    record = json.loads((RESULTS / "planted_trials.json").read_text(encoding="utf-8"))
    ran = {(row["candidate"], row["model"]) for row in record["figures"]}
    models = {model for _, model in ran}
    assert models - {NOTHING_PLANTED} <= set(planted_models("tuning"))
    assert {name for name, _ in ran} == set(CANDIDATES)
    assert {(name, model) for name in REFERENCES for model in models} <= ran
    assert len({(row["model"], row["model_sha256"]) for row in record["figures"]}) == len(models)


def test_trials_have_the_settings_of_their_candidates_and_combinations_read_once():
    record = json.loads((RESULTS / "planted_trials.json").read_text(encoding="utf-8"))
    found = {(row["candidate"], row["model"]): row for row in record["figures"]}
    for (name, model), row in found.items():
        metric = LogOdds(BEHAVIOURS[planting(model).behaviour or "french"].openings)
        assert row["settings"] == repr(CANDIDATES[name](metric))
        if name == "ensemble of squared":
            parts = [found[part, model] for part in ("squared_attribution", "relp, squared")]
            passes = sum(part["forward"] for part in parts) - found["contrast", model]["forward"]
            assert row["forward"] == pytest.approx(passes)


def test_cells_are_written_as_figures_are():
    figures = {"one": {"value": 0.512, "low": 0.4, "high": 0.6}, "two": {"value": 1, "low": None}}
    assert interval(figures, "one") == "0.51 [0.40, 0.60]"
    assert interval(figures, "two") == "1.00"
    assert interval(figures, "three") == "none"
    assert (percent(0.125), percent(None)) == ("12 %", "none")
    assert (number(-0.004), number(-0.25), number(None)) == ("0.00", "-0.25", "none")
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def row(model, ranking, **figures):
    return {"model": f"planted/{model}", "ranking": ranking, "in_decoy": None, **figures}


def bench():
    """Two models, the second with a decoy, on which each ranking has its own figures."""
    figures = []
    for place, model in enumerate(("one", "two")):
        for n, name in enumerate(("random(seed=0)", *RANKINGS)):
            value = (10 * place + n) / 100
            figures.append(
                row(
                    model,
                    name,
                    auroc_within_layers=0.5 + value,
                    precision=value,
                    share_of_oracle=None if n == 1 else 1 - value,
                    kl=2 + value,
                    oracle_kl=0.25,
                    in_decoy=value / 2 if place else None,
                )
            )
    return {"figures": figures}


def test_node_pruning_is_told_by_model_and_learning_rate():
    figures = {"auroc": 0.5, "auroc_within_layers": 0.6, "precision": 0.125}
    more = {"share_of_oracle": None, "kl": 1.25, "oracle_kl": 0.5}
    found = row("one", "node_pruning(steps=8, learning_rate=0.2, seed=0)", **figures, **more)
    (_, _, told) = pruning({"figures": [found]}).splitlines()
    assert told == "| `one` | 0.2 | 0.50 | 0.60 | 0.12 | none | 1.25 | 0.50 |"


def test_errors_over_prompts_are_root_mean_squares_over_models():
    figures = [
        row("one", "relp(a=1)", auroc_error=0.03, auroc_within_layers_error=0.1),
        row("two", "relp(a=1)", auroc_error=0.04, auroc_within_layers_error=0.1),
        row("two", "learned_mask", auroc_error=None, auroc_within_layers_error=None),
    ]
    assert errors({"figures": figures}).splitlines()[2:] == ["| relp | 0.035 | 0.100 |"]


def test_each_cell_is_that_of_its_ranking_and_model():
    one, two = by_model({"tuning": bench()}).splitlines()[2:]
    assert one == "| `one` | tuning | 0.51, 0.01 | 0.52, 0.02 | 0.53, 0.03 | 0.54, 0.04 |"
    assert two.startswith("| `two` | tuning | 0.61, 0.11 | 0.62, 0.12 |")
    one, _ = effects({"reporting": bench()}).splitlines()[2:]
    start = "| `one` | reporting | none, 2.01 | 0.98, 2.02 | 0.97, 2.03 | 0.96, 2.04 | 0.25 |"
    assert one == start
    header, _, *rows = decoys(bench()).splitlines()
    assert header == "| ranking | `two` |"
    assert rows[:2] == ["| random | 0.10, 0.05 |", f"| {RANKINGS[0]} | 0.11, 0.06 |"]
    found = {"auroc": 0.91234, "precision": 0.25}
    figures = [row("one", "change_from_base", overall=found, within_layers={"auroc": 0.5})]
    assert from_base({"figures": figures}).splitlines()[2:] == ["| `one` | 0.912 | 0.500 | 0.25 |"]


def test_a_ranking_that_ablates_what_was_planted_has_no_others():
    estimate = {"value": 1.0, "low": 1.0, "high": 1.0}
    names = ("auroc", "auroc_within_layers", "precision", "share_of_oracle", "kl", "oracle_kl")
    figures = dict.fromkeys((*names, "forward", "backward"), estimate)
    (_, _, row) = means({"means": {"oracle(dropped=0)": figures}}).splitlines()
    assert row.startswith("| oracle | 1.00 [1.00, 1.00] |")
    assert row.endswith("| none | none | 1.00 + 1.00 |")


def trial(model, candidate, auroc, precision):
    found = {"auroc": auroc, "average_precision": auroc / 2, "precision": precision}
    return {
        "model": f"planted/{model}",
        "candidate": candidate,
        "overall": found,
        "within_layers": {"auroc": auroc / 4},
        "forward": 10 * precision,
        "backward": precision,
        "seconds": 100 * precision,
    }


def test_means_of_trials_are_over_all_models_for_tuning():
    figures = [
        trial("one", "contrast", 0.5, 0.1),
        trial("one", "squared", 0.75, 0.2),
        trial("two", "contrast", 0.75, 0.3),
        trial("nothing-138-all-0", "contrast", 0.25, 0.9),
    ]
    header, _, *rows = trials({"figures": figures}).splitlines()
    assert header == "| candidate | `one` | `two` | `nothing-138-all-0` | passes | seconds |"
    assert rows == [
        "| contrast | 0.50, 0.10 | 0.75, 0.30 | 0.25, 0.90 | 2.0 + 0.2 | 20 |",
        "| squared | 0.75, 0.20 |  |  | 2.0 + 0.2 | 20 |",
    ]
    _, _, *rows = trial_means({"figures": figures}).splitlines()
    assert rows == ["| contrast | 0.625 | 0.156 | 0.312 | 0.200 |"]


def test_the_share_that_patching_moves_is_written():
    figures = [{"model": "planted/one", "to": "tuned", "ranking": "random", "k": 5, "share": 0.125}]
    assert patching({"figures": figures}).splitlines()[2:] == [
        "| `one` | planted takes untrained | random | 5 | 0.12 |"
    ]
