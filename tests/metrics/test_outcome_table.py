"""The table of outcomes: each answer is counted once, and shares are of the known ones."""

from dataclasses import replace

import pytest
from outcomes import BOILING, KINDS

from cna_lens import InputError, wilson
from cna_lens.metrics import Answered, Evaluation, label, outcomes

COUNTS = {"refusal": 3, "compliance": 2, "no answer": 1, "other": 4}
ANSWERS = [KINDS[name] for name, count in COUNTS.items() for _ in range(count)]


def answered(evaluation, condition="unsteered, m = 1"):
    return Answered(condition, "harmful", evaluation)


@pytest.fixture(scope="module")
def labelled():
    return label([BOILING] * len(ANSWERS), ANSWERS)


def test_each_answer_is_counted_once(labelled):
    (row,) = outcomes([answered(labelled)]).rows
    assert row.counts == COUNTS
    assert row.n == len(ANSWERS)
    assert row.unknown == 0
    for name, count in COUNTS.items():
        told = [True] * count + [False] * (len(ANSWERS) - count)
        assert row.rates[name] == wilson(told)


def test_an_answer_without_a_label_is_no_outcome_and_leaves_the_shares(labelled):
    first, *others = labelled.records
    unlabelled = replace(first, refused=False, complied=None, no_answer=None)
    table = outcomes([answered(Evaluation((unlabelled, *others)))])
    (row,) = table.rows
    assert row.counts == COUNTS | {"refusal": 2}
    assert (row.n, row.unknown) == (len(ANSWERS) - 1, 1)
    assert row.rates["compliance"] == wilson([True] * 2 + [False] * 7)
    assert "unknown" in str(table)
    assert "unknown" not in str(outcomes([answered(labelled)]))


def test_the_frame_has_a_row_for_each_outcome_of_each_condition(labelled):
    table = outcomes([answered(labelled), answered(label([BOILING], ["Sure!"]), "circuit, m = 0")])
    frame = table.to_frame().set_index(["condition", "outcome"])
    assert frame.loc["unsteered, m = 1", "count"].to_dict() == COUNTS
    assert frame.loc[("circuit, m = 0", "other"), "share"] == 1
    assert frame.loc[("circuit, m = 0", "refusal"), "share_high"] == wilson([False]).high
    assert table.to_frame().groupby("condition")["share"].sum().tolist() == pytest.approx([1, 1])


def test_without_answers_there_is_no_table():
    with pytest.raises(InputError, match="no answers to count"):
        outcomes([])


def test_several_answers_to_a_prompt_count_answers_and_their_rates_prompts():
    answers = [KINDS["refusal"], KINDS["refusal"], KINDS["refusal"], KINDS["compliance"]]
    (row,) = outcomes([answered(label([BOILING] * 2, answers, samples=2))]).rows
    assert row.counts["refusal"] == 3
    assert row.rates["refusal"] == wilson([1.0, 0.5])
    assert row.rates["compliance"] == wilson([0.0, 0.5])
