"""Reports of values that were planted in the cells; no model runs."""

import pytest

from cna_lens.results import Journal
from experiments.catalogue import EXPERIMENTS
from experiments.study.experiment import Results
from experiments.study.reporting import Report
from experiments.study.settings import JudgeSettings, Pair, Study
from experiments.study.sources import Sources

N = 20
STUDY = Study(
    "planted",
    (Pair("Llama-3.2-1B", "x/llama-instruct", "x/llama"),),
    limit=N,
    block_size=8,
    max_new_tokens=32,
    evaluation="refusal_evaluation",
    strengths=(0.0, 1.0),
    fraction=0.001,
    fractions=(0.001, 0.01),
    ranking_fractions=(0.01,),
    control_seeds=(0, 1),
    top=6,
    judge=JudgeSettings("a-judge"),
)


def report(name, values, study=STUDY) -> Report:
    """The report of an experiment whose cells hold `values(cell)`."""
    journal = Journal(None, "study", {})
    for cell in EXPERIMENTS[name].cells(study, Sources()):
        journal.add(cell.key, {"cell": cell.record(), "values": values(cell), "provenance": {}})
    return EXPERIMENTS[name].report(Results(study, Sources(), journal))


def row(found, quantity):
    (only,) = [row for row in found.rows if row.quantity == quantity]
    return only


def prompts_in(cell):
    """The places of a block's prompts in the whole set."""
    return range(8 * cell.block, min(8 * cell.block + 8, N))


def answered(refused, log_odds=0.0, quality=1.0):
    """Values for a cell of answers: `refused` says which of the 20 requests are."""

    def values(cell):
        mine = list(prompts_in(cell))
        return {
            "refused": [refused(cell, place) for place in mine],
            "quality": [quality] * len(mine),
            "log_odds": [log_odds] * len(mine),
        }

    return values


def unsteered(cell):
    return cell.steering.method == "unsteered"


def control(cell):
    return not unsteered(cell) and cell.steering.discovery.control is not None


def test_table1_puts_each_value_beside_the_papers():
    found = report(
        "table1",
        answered(
            lambda cell, place: (
                place < 10 if unsteered(cell) else cell.steering.method == "caa" and place < 5
            )
        ),
    )
    expected = {
        "refused, unsteered": (0.5, 0.434),
        "refused, CNA": (0.0, 0.202),
        "refused, CAA": (0.25, 0.0),
        "quality, CNA": (1.0, 0.975),
        "refused, random neurons": (0.0, None),
    }
    for quantity, (ours, theirs) in expected.items():
        assert (row(found, quantity).ours.value, row(found, quantity).ours.n) == (ours, N)
        assert row(found, quantity).paper == pytest.approx(theirs)
    changed = row(found, "change by CNA, McNemar p = 0.002")
    assert changed.ours.value == -0.5
    assert changed.paper == pytest.approx(0.202 - 0.434)


def test_table2_asks_base_models():
    found = report("table2", answered(lambda cell, place: cell.model == "x/llama"))
    assert row(found, "refused, unsteered").ours.value == 1
    assert row(found, "refused, CAA").paper == pytest.approx(0.03)


def test_table3_compares_before_and_after_request_by_request():
    found = report(
        "table3",
        answered(lambda cell, place: place < (16 if unsteered(cell) or control(cell) else 4)),
    )
    assert (row(found, "refused before").ours.value, row(found, "refused before").paper) == (
        0.8,
        0.9,
    )
    assert (row(found, "refused after").ours.value, row(found, "refused after").paper) == (
        0.2,
        0.34,
    )
    assert row(found, "change by random neurons, p = 1").ours.value == 0


def circuits(cell):
    """The refusal circuit of the base model shares half of its neurons with the instruct one's."""
    first = 3 if cell.model == "x/llama" else 0
    neurons = list(range(first, first + 6))
    return {"neurons": neurons, "resampled": [neurons, neurons], "widths": [2] * 8}


def test_table6_counts_neurons_of_the_last_layers():
    # Neurons 0 to 5 of 8 layers of 2: layers 0 to 2.
    late = report("table6", lambda cell: circuits(cell) | {"neurons": [0, 1, 9, 10, 12, 15]})
    # The last three layers begin at 10, the last quarter, two layers, at 12.
    assert row(late, "refusal, last 3 layers").ours.value == 0.5
    assert row(late, "refusal, last 3 layers").paper == 0.87
    assert row(late, "refusal, last quarter (2 layers)").ours.value == pytest.approx(1 / 3)
    assert row(late, "refusal, last quarter (2 layers)").paper == 0.90
    assert (row(late, "refusal, last 3 layers").ours.low, late.rows[0].ours.high) == (0, 0)


def test_table7_has_the_papers_value_of_the_same_model():
    found = report("table7", circuits)
    assert [(each.model, each.paper) for each in found.rows if each.quantity == "refusal"] == [
        ("Llama-3.2-1B, base", 0.82),
        ("Llama-3.2-1B, instruct", 0.87),
    ]


def test_table8_gives_the_share_in_common_beside_that_of_random_neurons():
    found = report("table8", circuits)
    assert row(found, "refusal").ours.value == 0.5
    assert row(found, "refusal").paper == 0.17
    # Layer 1 has one neuron of the base circuit and both of the instruct one's, layer 2 has both
    # of both: of two neurons 1 and 2 are always shared, of 6 the half.
    by_chance = row(found, "refusal, random neurons of the same layers").ours.value
    assert by_chance == pytest.approx(0.5)


def test_figure1_draws_the_mean_over_models_with_the_deviation_between_them(tmp_path):
    pairs = (*STUDY.pairs, Pair("Qwen2.5-3B", "x/qwen-instruct"))
    study = Study(**{**{f: getattr(STUDY, f) for f in STUDY.__dataclass_fields__}, "pairs": pairs})
    found = report(
        "figure1",
        answered(lambda cell, place: place < (10 if "llama" in cell.model else 20)),
        study,
    )
    (mean,) = [
        each for each in found.rows if "mean" in each.model and each.quantity == "refused, CNA 1"
    ]
    # 0.5 and 1.0: mean 0.75, deviation 0.3536.
    assert (mean.ours.value, mean.ours.n) == (0.75, 2)
    assert mean.ours.high - mean.ours.value == pytest.approx(0.35355, abs=1e-4)
    assert mean.paper == pytest.approx((20.2 + 26.3 + 5.1 + 12.1 + 26.3 + 34.3 + 13.1 + 5.1) / 800)
    EXPERIMENTS["figure1"].draw(found, tmp_path / "figure1.png")
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")


def test_figure2_computes_changes_question_by_question():
    found = report("figure2", lambda cell: {"right": [True, True, unsteered(cell), False] * 5})
    assert row(found, "right, CNA 0").ours.value == 0.75
    assert row(found, "right, CAA 1").ours.value == 0.5
    assert row(found, "change, CNA 1").ours.value == -0.25


def test_figure3_counts_every_layer():
    found = report("figure3", circuits)
    counts = [each.ours.value for each in found.rows if "refusal" in each.quantity]
    assert counts == [2, 2, 2, 0, 0, 0, 0, 0]


def test_a_missing_score_is_not_a_score_of_zero():
    def judged(cell):
        return {"score": [None if place == 0 else 0.5 for place in prompts_in(cell)]}

    found = report("strongreject", judged)
    score = row(found, "score before").ours
    assert (score.value, score.n, score.missing) == (0.5, N - 1, 1)
    assert row(found, "change").paper == 0.06
    assert "a-judge" in " ".join(found.differences)


def rankings(best, drop):
    def values(cell):
        found = cell.steering.discovery
        mine = (found.ranking, found.sign) if found else None
        return {
            "log_odds": [
                5.0 + place - (drop if mine == best else 0.5 if found else 0)
                for place in prompts_in(cell)
            ]
        }

    return values


def test_settle_rankings_names_the_best_and_its_gain_over_the_papers():
    found = report("settle_rankings", rankings(("relp", "positive"), 3.0))
    assert row(found, "relp, positive, 1.00%").ours.value == pytest.approx(3)
    assert row(found, "random, seed 1, 1.00%").ours.value == pytest.approx(0.5)
    assert "relp (positive), the best of 10 on these requests, more: by 3.00" in found.answer
    assert "2.50 [2.50, 2.50] (n = 20) beyond the paper's" in found.answer


def test_settle_rankings_says_if_the_papers_is_best_or_hardly_worse():
    assert (
        "none of the 9 others by more"
        in report("settle_rankings", rankings(("contrast", "abs"), 3.0)).answer
    )

    def noisy(cell):
        found = cell.steering.discovery
        better = found and (found.ranking, found.sign) == ("relp", "abs")
        return {
            "log_odds": [
                (-1.05 if place % 2 else 1.0) if better else 0.0 for place in prompts_in(cell)
            ]
        }

    assert "not clearly more" in report("settle_rankings", noisy).answer


def test_settle_sign_names_the_readings_that_change_refusals_beyond_chance():
    found = report(
        "settle_sign",
        answered(lambda cell, place: unsteered(cell) or cell.steering.discovery.sign != "negative"),
    )
    assert found.answer.endswith("Beyond chance: less active, 0.10%; less active, 1.00%.")
    none = report("settle_sign", answered(lambda cell, place: True))
    assert none.answer.endswith("Beyond chance: none of them.")


def fractions(left):
    return answered(
        lambda cell, place: (
            place < (20 if unsteered(cell) else left[cell.steering.discovery.fraction])
        )
    )


def test_settle_fraction_finds_the_smallest_size_that_removes_half_of_the_refusals():
    answer = report("settle_fraction", fractions({0.001: 11, 0.01: 10})).answer
    assert "leaves half of that or less leaves 50 % [30, 70] (n = 20) at 1.00%" in answer
    answer = report("settle_fraction", fractions({0.001: 3, 0.01: 0})).answer
    assert "leaves 15 % [5, 36] (n = 20) at 0.10%" in answer
    answer = report("settle_fraction", fractions({0.001: 20, 0.01: 11})).answer
    assert "none of the sizes tried leaves half of that" in answer
    nothing = report("settle_fraction", answered(lambda cell, place: False)).answer
    assert "nothing to take away" in nothing


def test_settle_controls_distinguishes_the_circuit_from_its_controls():
    alone = report(
        "settle_controls", answered(lambda cell, place: unsteered(cell) or control(cell))
    )
    assert row(alone, "circuit less random").ours.value == -1
    assert "-100 % [-100, -100] (n = 20) beyond random neurons, which is more than" in alone.answer
    alike = report("settle_controls", answered(lambda cell, place: unsteered(cell)))
    assert "beyond random neurons, which is not more than chance" in alike.answer


def test_settle_controls_averages_the_seeds():
    found = report(
        "settle_controls",
        answered(lambda cell, place: unsteered(cell) or (control(cell) and cell.seed == 0)),
    )
    assert row(found, "circuit less random").ours.value == -0.5


def late_shares(share, shuffled):
    def values(cell):
        def estimate(value):
            return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9, "missing": 0}

        return {
            "shares": [
                {
                    "region": region,
                    "scaled": scaled,
                    "share": estimate(share),
                    "shuffled": estimate(shuffled),
                }
                for region in ("last 3 layers", "last quarter", "last tenth")
                for scaled in (False, True)
            ]
        }

    return values


def test_settle_late_layers_compares_with_shuffled_labels():
    assert (
        "50 % [40, 60] (n = 9) of the refusal circuit, no more than"
        in report("settle_late_layers", late_shares(0.5, 0.45)).answer
    )
    assert (
        "of the refusal circuit, more than from shuffled labels, 20 %"
        in report("settle_late_layers", late_shares(0.5, 0.2)).answer
    )


def test_settle_discovery_size_gives_the_index_of_disjoint_sets():
    def values(cell):
        def estimate(value):
            return {"value": value, "low": 0.1, "high": 0.5, "n": 200, "missing": 0}

        sizes = [
            {"size": 8, "between": estimate(0.4), "disjoint": estimate(0.3)},
            {"size": 64, "between": estimate(0.6), "disjoint": None},
        ]
        both = {"n_positive": 100, "n_negative": 100}
        return {"sizes": sizes, "jaccard": estimate(0.7), "k": 46, **both}

    found = report("settle_discovery_size", values)
    assert (
        "0.30 [0.10, 0.50] (n = 200) from 8 + 8 prompts; resampling all 100 + 100" in found.answer
    )
    assert [each.quantity for each in found.rows].count("8 + 8 prompts, none in common") == 1


def test_settle_template_compares_the_two_circuits():
    def values(cell):
        if cell.measure == "circuit":
            neurons = [0, 1, 2] if cell.steering.discovery.chat else [1, 2, 3]
            return {"neurons": neurons, "resampled": [neurons] * 3, "widths": [4]}
        return answered(lambda cell, place: unsteered(cell))(cell)

    found = report("settle_template", values)
    assert row(found, "Jaccard of the two circuits").ours.value == 0.5
    assert "0.50 [0.50, 0.50] (n = 3)" in found.answer
    assert "-100 % [-100, -100] (n = 20) found in plain text" in found.answer


def test_a_question_is_the_first_line_and_its_answer_the_last():
    found = report("settle_sign", answered(lambda cell, place: True))
    lines = found.markdown().splitlines()
    assert lines[0].endswith("?")
    assert lines[-1] == found.answer


def test_a_table_lists_the_differences_of_the_set_up():
    text = report("table3", answered(lambda cell, place: True)).markdown()
    assert "20 harmful requests of refusal_evaluation, the paper 100 of JBB" in text
    assert "at most 32 tokens, the paper's 150" in text
    assert "Llama-3.2-1B in float32, the paper's in bfloat16" in text
    assert "universal neurons: excluded before the top is taken" in text
