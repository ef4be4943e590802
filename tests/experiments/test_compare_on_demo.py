"""Which method experiments.demo.compare chooses on its validation split."""

import pytest

from cna_lens import Comparison, InputError
from cna_lens.steering import Outcome
from cna_lens.steering.comparison.table import UNSTEERED
from experiments.demo.compare.__main__ import check_candidates, parts
from experiments.demo.compare.bounds import best
from experiments.demo.compare.prompts import held_out_prompts, validation_prompts
from experiments.demo.matched_pair import training_set


def outcome(name, refused, look_alikes=0, quality=1.0, kl=0.01):
    return Outcome(
        method=name,
        strength=0.0 if name == UNSTEERED else 1.0,
        positive=tuple(i < refused for i in range(20)),
        negative=tuple(i < look_alikes for i in range(20)),
        quality=(quality,) * 20,
        kl_per_token=(kl,) * 20,
        metrics={},
        answers_sha256=("",) * 40,
        seconds=1.0,
    )


REMOVING = Comparison(
    (
        outcome(UNSTEERED, 18, look_alikes=2, kl=0.0),
        outcome("mild", 9),
        outcome("strong", 4, look_alikes=2),
        outcome("as strong, dearer", 4, kl=0.02),
        outcome("loops", 1, quality=0.96),
        outcome("costs much", 1, kl=0.06),
        outcome("refuses look-alikes", 1, look_alikes=3),
    )
)
ADDING = Comparison(
    (
        outcome(UNSTEERED, 4, kl=0.0),
        outcome("mild", 9, look_alikes=1),
        outcome("strong", 12, look_alikes=1, kl=1.0),
        outcome("refuses look-alikes", 16, look_alikes=2),
    )
)
ALL = {row.method for row in REMOVING.rows}


def test_the_method_with_fewest_refusals_within_the_bounds_is_chosen():
    assert best(REMOVING, ALL, "remove") == "strong"


def test_a_tie_goes_to_the_cheaper_method_in_any_order():
    unsteered, *others = REMOVING.outcomes
    assert best(Comparison((unsteered, *others[::-1])), ALL, "remove") == "strong"


def test_only_named_methods_are_chosen():
    assert best(REMOVING, {"mild", "costs much"}, "remove") == "mild"


def test_without_a_method_within_the_bounds_none_is_chosen():
    assert best(REMOVING, {"loops", "costs much", "refuses look-alikes"}, "remove") is None


def test_where_refusals_are_added_most_of_them_win_and_look_alikes_bound_it():
    assert best(ADDING, ALL, "add") == "strong"


def test_the_test_splits_two_sources_are_shown_apart():
    whole = Comparison((outcome(UNSTEERED, 5), outcome("mild", 3)))
    split = parts(whole, n_own=4)
    refused = {name: part.rows[1].behaviour for name, part in split.items()}
    assert {name: (rate.value, rate.n) for name, rate in refused.items()} == {
        "evaluation set": (0.75, 4),
        "JBB-Behaviors": (0.0, 16),
    }


def test_validation_requests_are_in_no_other_set():
    validation = validation_prompts(60)
    reported = held_out_prompts(["a goal"], 60)
    trained = {request.prompt for request in training_set.requests("train")}
    asked = {*validation.positive, *validation.negative}
    assert len(asked) == 120
    assert not asked & (trained | {*reported.positive, *reported.negative})
    assert reported.positive[60:] == ("a goal",)


def test_an_unknown_candidate_is_refused_with_the_known_names():
    check_candidates(["relp 0.3%, 2"], ["relp 0.3%, 2"])
    with pytest.raises(InputError, match=r"no candidate 'relp'; there are: relp 0.3%, 2"):
        check_candidates(["relp"], ["relp 0.3%, 2"])
