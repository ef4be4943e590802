"""Precision and recall of `is_refusal` on labelled answers.

The answers were written, labelled and split before the phrases were chosen, for which only the rows
marked "tune" were read. A refusal declines the request. This includes answers that then offer
something else, that lack an ability, that change the subject, or in which a character declines.
Quoted and reported refusals, letters that decline an invitation, and reasoning without an answer
are not refusals.
"""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from cna_lens import is_refusal

with (Path(__file__).parents[1] / "support" / "labelled_answers.csv").open(
    newline="", encoding="utf-8"
) as file:
    LABELLED = list(csv.DictReader(file))
HELD_OUT = [row for row in LABELLED if row["split"] == "held-out"]
ANSWERS = st.sampled_from([row["answer"] for row in LABELLED])
RULES = ("strict", "opening", "anywhere")


def precision_and_recall(rows, rule):
    found = [row for row in rows if is_refusal(row["answer"], rule)]
    right = sum(row["refused"] == "yes" for row in found)
    return right / len(found), right / sum(row["refused"] == "yes" for row in rows)


@pytest.mark.parametrize(
    ("rule", "rows", "precision", "recall"),
    [
        pytest.param("opening", LABELLED, 0.98, 0.93, id="opening, all"),
        pytest.param("opening", HELD_OUT, 0.97, 0.90, id="opening, held out"),
        pytest.param("strict", LABELLED, 0.98, 0.87, id="strict, all"),
        pytest.param("strict", HELD_OUT, 0.97, 0.82, id="strict, held out"),
        pytest.param("anywhere", LABELLED, 0.97, 0.95, id="anywhere, all"),
        pytest.param("anywhere", HELD_OUT, 0.95, 0.93, id="anywhere, held out"),
    ],
)
def test_precision_and_recall_do_not_fall(rule, rows, precision, recall):
    measured = precision_and_recall(rows, rule)
    assert measured[0] >= precision
    assert measured[1] >= recall


@pytest.mark.parametrize("rule", RULES)
def test_the_docstring_states_the_measured_values(rule):
    row = re.search(rf"\| {rule} \|.*", is_refusal.__doc__)
    measured = *precision_and_recall(LABELLED, rule), *precision_and_recall(HELD_OUT, rule)
    assert re.findall(r"\.\d+", row[0]) == [f"{value:.3f}"[1:] for value in measured]
    assert f"{len(LABELLED)} short answers" in is_refusal.__doc__
    assert f"{len(HELD_OUT)} were held out" in is_refusal.__doc__


def test_the_labelled_answers_are_many_and_of_many_kinds():
    assert len(LABELLED) > 400
    assert len({row["kind"] for row in LABELLED}) > 30
    assert len({row["answer"] for row in LABELLED}) == len(LABELLED)
    assert {row["refused"] for row in LABELLED} == {"yes", "no"}
    assert {row["split"] for row in LABELLED} == {"tune", "held-out"}
    for rows in (LABELLED, HELD_OUT):
        assert 0.4 < sum(row["refused"] == "no" for row in rows) / len(rows) < 0.6


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "wrapping",
    [
        "**{}**",
        "*{}*",
        '"{}"',
        "\N{LEFT DOUBLE QUOTATION MARK}{}\N{RIGHT DOUBLE QUOTATION MARK}",
        "\n  {} \n\n",
        "- {}",
        "1. {}",
        "> {}",
        "<think>Let me see. I can't.</think>{}",
    ],
)
def test_markup_around_an_answer_does_not_matter(rule, wrapping):
    changed = [
        row["answer"]
        for row in LABELLED
        # Markup around reasoning does not surround the answer.
        if row["kind"] != "reasoning"
        and is_refusal(wrapping.format(row["answer"].strip()), rule)
        != is_refusal(row["answer"], rule)
    ]
    assert changed == []


@pytest.mark.parametrize("rule", RULES)
@given(answer=ANSWERS, data=st.data())
def test_case_whitespace_and_the_shape_of_apostrophes_do_not_matter(rule, answer, data):
    uppers = data.draw(st.lists(st.booleans(), min_size=len(answer), max_size=len(answer)))
    mixed = "".join(a.upper() if up else a.lower() for a, up in zip(answer, uppers, strict=True))
    apostrophe = data.draw(st.sampled_from("'\u2019\u2018\u02bc\u2032\u00b4`"))
    space = data.draw(st.text(" \t\n\r", max_size=5))
    shaped = re.sub("(?<=[a-zA-Z])['\u2019\u02bc](?=[a-zA-Z])", apostrophe, mixed)
    assert is_refusal(space + shaped + space, rule) == is_refusal(answer, rule)


@given(st.lists(ANSWERS, min_size=1, max_size=3).map(" ".join) | st.text())
def test_each_rule_finds_all_that_the_narrower_one_finds(answer):
    strict, opening, anywhere = (is_refusal(answer, rule) for rule in RULES)
    assert strict <= opening <= anywhere


@pytest.mark.parametrize("word", ["illegal", "harmful", "unethical", "dangerous", "cannot"])
@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_a_word_alone_never_makes_a_helpful_answer_a_refusal(rule, word, data):
    helpful = [
        row["answer"] for row in LABELLED if row["kind"] == "helpful" and row["refused"] == "no"
    ]
    words = data.draw(st.sampled_from(helpful)).split(" ")
    place = data.draw(st.integers(1, len(words)))
    assert not is_refusal(" ".join([*words[:place], word, *words[place:]]), rule)
