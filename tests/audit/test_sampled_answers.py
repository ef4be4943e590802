"""Sampled answers: refusals are counted, and so few are compared with what chance gives."""

import json
from dataclasses import replace
from itertools import product
from math import prod
from xml.etree import ElementTree

import numpy as np
import pytest
from canary_models import CANARIES, OPENING, with_chances
from judge_server import Reply, completion

import cna_lens
from cna_lens import InputError, audit
from cna_lens.errors import FingerprintError
from cna_lens.metrics import Endpoint, Missing, is_refusal
from cna_lens.report import make_report

REFUSAL, ANSWER = f"{OPENING} help with that.", "Sure, here is how."
N = len(CANARIES.harmful)
NOTHING = Missing("not asked")


def judged(fingerprint, answers, **settings):
    return audit.judge_sampled_answers(answers, fingerprint, model="served", **settings)


def test_the_p_value_is_the_tail_of_all_outcomes_that_refuse_as_little(fingerprint):
    chances = [0.9, 0.6, 0.3]
    taken = with_chances(fingerprint, [*chances, *[0.5] * (N - 3)])
    # The first is answered twice, the second once, the third not at all, the fourth once.
    answers = [[REFUSAL, ANSWER], [ANSWER], [NOTHING], [REFUSAL], *[[NOTHING]] * (N - 4)]
    asked = [0.9, 0.9, 0.6, 0.5]
    expected = sum(
        prod(p if refuses else 1 - p for p, refuses in zip(asked, outcome, strict=True))
        for outcome in product([True, False], repeat=4)
        if sum(outcome) <= 2
    )
    found = judged(taken, answers)
    assert found.p_value == pytest.approx(expected)
    assert (found.compared, found.refused, found.samples) == (4, 2, 2)
    assert found.expected == pytest.approx(sum(asked))
    assert found.score == pytest.approx(1 - 2 / sum(asked))
    assert found.missing == {"not asked": N - 3}


def test_drift_that_was_measured_lowers_what_is_expected(fingerprint):
    # One nat below log-odds of 0.
    found = judged(with_chances(fingerprint, [0.5] * N, null=1.0), [[REFUSAL]] * N)
    assert found.expected == pytest.approx(N / (1 + np.e))
    higher = judged(with_chances(fingerprint, [0.5] * N, null=-1.0), [[REFUSAL]] * N)
    assert higher.expected == pytest.approx(N / 2)


@pytest.mark.parametrize(
    ("refused", "verdict", "code"), [(13, "match", 0), (12, "tampered", 1), (0, "tampered", 1)]
)
def test_fewer_refusals_than_chance_explains_are_tampering(fingerprint, refused, verdict, code):
    # Of 16 with a chance of .95 each, 12 or fewer refuse with a probability of .0070, 13 of .043.
    taken = with_chances(fingerprint, [0.95] * N)
    found = judged(taken, [[REFUSAL]] * refused + [[ANSWER]] * (N - refused))
    assert (found.verdict, found.exit_code) == (verdict, code)


def test_too_few_answers_for_any_outcome_give_no_verdict(fingerprint):
    taken = with_chances(fingerprint, [0.95] * N)
    nothing = [[NOTHING]] * (N - 1)
    found = judged(taken, [[ANSWER], *nothing])
    # The one answer refuses with .95: that it does not has a probability of .05.
    assert (found.verdict, found.exit_code) == ("undecided", 2)
    assert judged(taken, [[ANSWER, ANSWER], *nothing]).verdict == "tampered"
    assert judged(taken, [[NOTHING]] * N).verdict == "undecided"


def test_an_answer_counts_by_the_openings_and_by_refusals_in_other_words(fingerprint):
    taken = with_chances(fingerprint, [0.9] * N)
    answers = [f"\n {OPENING} wait to tell you", "Unfortunately, I am unable to do that.", ANSWER]
    assert not is_refusal(answers[0])
    assert judged(taken, [answers, *[[NOTHING]] * (N - 1)]).refused == 2
    spaced = replace(taken.reference, openings=(f"\n{OPENING}",))
    taken = replace(taken, reference=spaced)
    assert judged(taken, [answers, *[[NOTHING]] * (N - 1)]).refused == 2


def test_the_genuine_model_is_rarely_called_tampered_with(fingerprint):
    draws = np.random.default_rng(0)
    chances = draws.uniform(0.2, 0.99, N)
    taken = with_chances(fingerprint, chances.tolist())
    alarms = 0
    for _ in range(400):
        refuses = draws.random((2, N)) < chances
        answers = [[REFUSAL if each else ANSWER for each in canary] for canary in refuses.T]
        alarms += judged(taken, answers, significance=0.05).verdict == "tampered"
    # 20 are expected at most; 33 is three standard deviations beyond.
    assert 3 <= alarms <= 33


@pytest.fixture
def server(judge_server):
    judge_server.next_reply = lambda body: judge_server.script(body["messages"][-1]["content"])
    judge_server.script = lambda _: completion(REFUSAL)
    return judge_server


def asked(server, taken, temperature=1.0, **settings):
    endpoint = Endpoint(
        "served", base_url=server.url, backoff=0.001, retries=1, temperature=temperature
    )
    return audit.attest_sampled_answers(endpoint, taken, CANARIES, **settings)


def test_an_endpoint_is_asked_each_harmful_canary_so_many_times_and_no_other(server, fingerprint):
    taken = with_chances(fingerprint, [0.9] * N)
    found = asked(server, taken, samples=3)
    sent = [body["messages"][-1]["content"] for body in server.received]
    assert sorted(sent) == sorted(CANARIES.harmful * 3)
    assert {(body["temperature"], body["top_p"]) for body in server.received} == {(1.0, 1.0)}
    assert {body["max_tokens"] for body in server.received} == {audit.ANSWER_TOKENS}
    assert (found.compared, found.refused, found.verdict) == (3 * N, 3 * N, "match")
    server.script = lambda _: completion(ANSWER)
    assert asked(server, taken, samples=3).verdict == "tampered"


def test_answers_belong_to_their_canaries(server, fingerprint):
    # Only the first canary has a chance to refuse worth the name, and it alone does not.
    taken = with_chances(fingerprint, [0.95, *[0.001] * (N - 1)])
    first = CANARIES.harmful[0]
    server.script = lambda said: Reply(status=500) if said != first else completion(ANSWER)
    found = asked(server, taken, samples=2)
    assert found.expected == pytest.approx(2 * 0.95)
    assert found.p_value == pytest.approx(0.05**2)
    assert found.missing == {"HTTP 500": 2 * (N - 1)}


def test_a_reply_that_reasons_to_its_end_is_no_answer(server, fingerprint):
    taken = with_chances(fingerprint, [0.95] * N)
    server.script = lambda _: completion("<think>The user asks me for")
    found = asked(server, taken, samples=1)
    assert found.missing == {"reasoning did not end": N}
    assert (found.verdict, found.score) == ("undecided", 0.0)
    server.script = lambda _: completion(f"<think>No.</think>{REFUSAL}")
    assert asked(server, taken, samples=1).refused == N


def test_a_budget_asks_every_canary_once_before_any_is_asked_again(server, fingerprint):
    taken = with_chances(fingerprint, [0.9] * N)
    found = asked(server, taken, samples=2, max_requests=N)
    sent = [body["messages"][-1]["content"] for body in server.received]
    assert sorted(sent) == sorted(CANARIES.harmful)
    assert found.missing == {"budget spent": N}


def test_what_cannot_be_asked_raises_before_a_request(server, fingerprint):
    taken = with_chances(fingerprint, [0.9] * N)
    with pytest.raises(InputError, match=r"temperature is 0.*temperature=1"):
        asked(server, taken, temperature=0.0)
    with pytest.raises(InputError, match="samples is 0"):
        asked(server, taken, samples=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        asked(server, taken, significance=1.0)
    with pytest.raises(FingerprintError, match="no openings of refusals"):
        asked(server, fingerprint)
    other = replace(CANARIES, harmful=CANARIES.benign, benign=CANARIES.harmful)
    with pytest.raises(InputError, match="not the canaries of the fingerprint"):
        audit.attest_sampled_answers(Endpoint("m", temperature=1.0), taken, other)
    with pytest.raises(InputError, match="answers to 1 canaries"):
        judged(taken, [[REFUSAL]])
    assert server.received == []


def test_the_result_holds_no_text_and_shows_what_it_rests_on(fingerprint, tmp_path):
    found = judged(with_chances(fingerprint, [0.95] * N), [[REFUSAL]] * 12 + [[ANSWER]] * (N - 12))
    found.save(tmp_path / "found.json")
    written = (tmp_path / "found.json").read_text()
    assert "sorry" not in written
    assert "here is how" not in written
    assert json.loads(written)["verdict"] == "tampered"
    assert "12 of 16 answers refuse, 15.2 expected" in str(found)
    assert "rests on the 16 of 16 answers" in " ".join(found.limits)
    (case,) = ElementTree.fromstring(audit.junit(found)).iter("testcase")
    assert case.get("name") == "verdict"
    assert [child.tag for child in case] == ["failure"]
    assert json.loads(audit.sarif(found, tmp_path / "model.json"))["runs"][0]["results"]
    page = tmp_path / "audit.html"
    make_report({"served": found}).save(page)
    assert "12 of 16 answers refuse" in page.read_text()


def test_the_fingerprint_keeps_the_chances_under_drift(says_i_cannot, tmp_path, monkeypatch):
    model, taken = says_i_cannot
    kept = [run.opening_log_odds for run in taken.null]
    expected = cna_lens.metrics.opening_log_odds(model, CANARIES.prompts, ["I cannot"])
    assert list(kept[0]) == pytest.approx(expected, abs=1e-3)
    # In bfloat16 they are others, if only a little.
    assert list(kept[1]) != pytest.approx(expected, abs=1e-6)
    assert list(kept[1]) == pytest.approx(expected, abs=0.2)
    taken.save(tmp_path / "taken.json")
    loaded = audit.Fingerprint.load(tmp_path / "taken.json")
    assert [run.opening_log_odds for run in loaded.null] == kept
    at_once = []

    def counted(model, prompts, openings):
        at_once.append(len(prompts))
        return cna_lens.metrics.opening_log_odds(model, prompts, openings)

    monkeypatch.setattr("cna_lens.audit.measuring.measurement.opening_log_odds", counted)
    audit.fingerprint(model, None, CANARIES, rankings=("contrast",), progress=False)
    assert at_once == [2 * N, *[1] * (2 * N), 2 * N]


def test_the_genuine_model_refuses_at_least_as_often_as_is_expected(says_i_cannot):
    model, taken = says_i_cannot
    found = []
    for seed in range(40):
        answers = cna_lens.generate(
            model, CANARIES.harmful, max_new_tokens=2, temperature=1.0, seed=seed
        )
        found.append(judged(taken, [[answer] for answer in answers]))
    refused, expected = (sum(getattr(each, n) for each in found) for n in ("refused", "expected"))
    # Some are answers in other words, by chance.
    assert refused < 40 * N
    assert refused > expected - 3 * (expected * (1 - expected / (40 * N))) ** 0.5
    assert sum(each.verdict == "tampered" for each in found) <= 3


def test_a_chance_near_1_does_not_make_one_answer_evidence(fingerprint):
    taken = with_chances(fingerprint, [1 - 1e-9] * N)
    found = judged(taken, [[ANSWER], *[[REFUSAL]] * (N - 1)])
    assert found.expected == pytest.approx(0.99 * N)
    assert found.verdict == "match"


def test_what_was_read_behind_reasoning_is_not_judged_by_samples(fingerprint):
    taken = replace(with_chances(fingerprint, [0.9] * N), position="answer")
    with pytest.raises(FingerprintError, match="position 'answer'"):
        judged(taken, [[REFUSAL]] * N)
