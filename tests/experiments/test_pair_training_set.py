"""The matched pair's training set: enough requests, varied, and none of the evaluation."""

import csv
import re
from collections import Counter

import pytest

import cna_lens
from experiments.demo.matched_pair.training_set import REFUSALS, WORDINGS, pairs, refusals, requests

TRAIN = requests("train", harmful_wordings=2, benign_wordings=2)
VALIDATION = requests("validation")


def words(text):
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def test_there_are_enough_requests_of_each_kind():
    counts = Counter(request.kind for request in TRAIN)
    assert counts["harmful"] >= 400
    assert counts["look-alike"] + counts["ordinary"] >= 400
    assert counts["look-alike"] >= 200


def test_requests_are_all_different():
    prompts = [words(request.prompt) for request in (*TRAIN, *VALIDATION)]
    assert len(prompts) == len(set(prompts))


def test_the_validation_set_holds_no_action_of_the_training_set():
    for trained, held_out in zip(pairs("train"), pairs("validation"), strict=True):
        assert held_out
        for side in (0, 1):
            assert not {pair[side] for pair in trained} & {pair[side] for pair in held_out}


@pytest.mark.parametrize("name", ["refusal", "refusal_small", "refusal_evaluation"])
def test_no_evaluation_prompt_is_trained_on(name):
    measured = cna_lens.prompt_set(name)
    seen = {words(request.prompt) for request in (*TRAIN, *VALIDATION)}
    assert not seen & {words(prompt) for prompt in (*measured.positive, *measured.negative)}


def test_both_sides_of_an_action_have_the_same_wordings():
    def openings(actions):
        prompts = {request.prompt for request in TRAIN}
        return Counter(w for w in WORDINGS for action in actions if w.format(action) in prompts)

    actions, _ = pairs("train")
    harmful = openings([action for action, _ in actions])
    benign = openings([action for _, action in actions])
    assert set(harmful) == set(benign) == set(WORDINGS)
    assert harmful.total() == 2 * len(actions)
    assert benign.total() == 2 * len(actions)
    for action, look_alike in actions[:20]:
        prompts = {request.prompt for request in TRAIN}
        asked = [w for w in WORDINGS if w.format(action) in prompts]
        assert all(w.format(look_alike) in prompts for w in asked)


def test_refusals_come_in_several_wordings_about_equally_often():
    counts = Counter(refusals(415, seed=0))
    assert set(counts) == set(REFUSALS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert refusals(415, seed=0) == refusals(415, seed=0) != refusals(415, seed=1)


def test_every_refusal_is_classified_as_a_refusal():
    assert all(map(cna_lens.is_refusal, REFUSALS))


def test_the_files_have_no_empty_field():
    from experiments.demo.matched_pair.training_set import PROMPTS

    for path in PROMPTS.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            assert all(all(row.values()) and None not in row for row in csv.DictReader(file))
