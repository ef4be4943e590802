"""Attestation of a black box: a local server answers canaries, and only refusals are compared."""

import json
from dataclasses import replace
from math import comb

import pytest
from canary_models import CANARIES
from judge_server import HANGS, Reply, completion, warm_up

from cna_lens import InputError, audit
from cna_lens.audit import Canaries, attest_answers
from cna_lens.errors import JudgeError
from cna_lens.metrics import Endpoint

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how."
HARMFUL = CANARIES.harmful


@pytest.fixture
def server(judge_server):
    """An endpoint whose script is a function of the user's message."""

    def next_reply(body):
        said = judge_server.script(body["messages"][-1]["content"])
        return said if isinstance(said, Reply) else completion(said)

    judge_server.next_reply = next_reply
    return judge_server


@pytest.fixture
def fingerprint(fingerprint):
    """The fingerprint of a model that refuses every harmful canary and no benign one."""
    return replace(fingerprint, refused=(True,) * 16 + (False,) * 16)


def answering(harmful):
    """A script that answers benign canaries and these harmful ones, and refuses the others."""
    answered = {*harmful, *CANARIES.benign}
    return lambda prompt: ANSWER if prompt in answered else REFUSAL


def asked(server, fingerprint, **settings):
    endpoint = Endpoint("served", base_url=server.url, backoff=0.001, retries=1)
    return attest_answers(endpoint, fingerprint, CANARIES, **settings)


def test_refusals_from_elsewhere_are_judged_as_those_of_an_endpoint(server, fingerprint):
    server.script = answering(HARMFUL[:9])
    endpoint = asked(server, fingerprint)
    own = [prompt not in (*HARMFUL[:9], *CANARIES.benign) for prompt in CANARIES.prompts]
    assert audit.judge_refusals(own, fingerprint, model="served") == endpoint
    assert endpoint.lost == 9


@pytest.mark.parametrize(
    ("refused", "settings", "message"),
    [([True], {}, "there are 1 answers"), ([True] * 32, {"significance": 1.0}, "between 0 and 1")],
)
def test_refusals_that_cannot_be_judged_raise_an_error(fingerprint, refused, settings, message):
    with pytest.raises(InputError, match=message):
        audit.judge_refusals(refused, fingerprint, model="served", **settings)


def test_the_same_refusals_match(server, fingerprint):
    server.script = answering([])
    found = asked(server, fingerprint)
    assert (found.verdict, found.p_value, found.score) == ("match", 1.0, 0.0)
    assert (found.lost, found.gained, found.compared, found.missing) == (0, 0, 16, {})


@pytest.mark.parametrize(("lost", "verdict"), [(6, "benign drift"), (7, "tampered")])
def test_lost_refusals_are_tampering_once_the_p_value_is_small_enough(
    server, fingerprint, lost, verdict
):
    server.script = answering(HARMFUL[:lost])
    found = asked(server, fingerprint)
    assert found.verdict == verdict
    assert found.p_value == pytest.approx(2.0**-lost)
    assert found.score == lost / 16


def test_new_refusals_weigh_against_lost_ones_and_alone_are_not_tampering(server, fingerprint):
    before = tuple(place >= 4 for place in range(16)) + (False,) * 16
    partly = replace(fingerprint, refused=before)
    server.script = answering(HARMFUL[4:12])  # 8 are lost; the first 4 will be gained
    found = asked(server, partly)
    assert (found.lost, found.gained) == (8, 4)
    assert found.score == (8 - 4) / 12
    assert found.p_value == pytest.approx(sum(comb(12, k) for k in range(8, 13)) / 2**12)
    server.script = answering([])
    assert asked(server, partly).p_value == 1.0


@pytest.mark.parametrize(("n", "verdict", "code"), [(6, "benign drift", 0), (7, "over-refusal", 1)])
def test_benign_canaries_that_are_refused_are_over_refusal_once_chance_cannot_explain_it(
    server, fingerprint, n, verdict, code
):
    answered = CANARIES.benign[n:]
    server.script = lambda prompt: ANSWER if prompt in answered else REFUSAL
    found = asked(server, fingerprint)
    assert (found.verdict, found.exit_code) == (verdict, code)
    assert (found.benign_changed, found.benign_gained, found.lost) == (n, n, 0)
    assert found.benign_p_value == pytest.approx(2.0**-n)
    assert found.p_value == 1.0
    assert (f"{n} benign canaries newly refused" in str(found)) == (verdict == "over-refusal")


def test_benign_canaries_that_are_answered_again_weigh_against_newly_refused_ones(fingerprint):
    before = (True,) * 16 + (True,) * 4 + (False,) * 12
    partly = replace(fingerprint, refused=before)
    now = [True] * 16 + [False] * 4 + [True] * 10 + [False] * 2
    found = audit.judge_refusals(now, partly, model="served")
    assert (found.benign_changed, found.benign_gained) == (14, 10)
    assert found.benign_p_value == pytest.approx(sum(comb(14, k) for k in range(10, 15)) / 2**14)
    assert found.verdict == "benign drift"


def test_lost_refusals_are_tampering_however_many_benign_canaries_are_refused(fingerprint):
    now = [False] * 16 + [True] * 16
    found = audit.judge_refusals(now, fingerprint, model="served")
    assert (found.verdict, found.exit_code) == ("tampered", 1)
    assert "more benign ones are refused" in found.why


def test_canaries_without_a_reply_are_missing_and_counted_as_neither(server, fingerprint):
    silent = {*HARMFUL[:3], CANARIES.benign[0]}
    usual = answering(HARMFUL[3:5])
    server.script = lambda prompt: Reply(status=500) if prompt in silent else usual(prompt)
    found = asked(server, fingerprint)
    assert (found.lost, found.compared, found.missing) == (2, 13, {"HTTP 500": 4})
    assert found.n_answered == 28
    assert "rests on the 28 of 32 canaries" in " ".join(found.limits)
    assert "without reply, HTTP 500  4" in str(found)


def test_too_few_replies_give_no_verdict(server, fingerprint):
    refused = dict.fromkeys(HARMFUL[:6], REFUSAL)
    server.script = lambda prompt: refused.get(prompt, " \n" if "w40" in prompt else "")
    found = asked(server, fingerprint)
    assert found.verdict == "undecided"
    assert found.missing == {"empty reply": 26}
    assert asked(server, fingerprint, significance=0.02).verdict == "match"


def test_a_budget_of_requests_asks_both_kinds_in_turn_and_the_verdict_rests_on_them(
    server, fingerprint
):
    server.script = answering(HARMFUL[:9])
    found = asked(server, fingerprint, max_requests=20)
    sent = {body["messages"][-1]["content"] for body in server.received}
    assert server.calls == 20
    assert sent == {*HARMFUL[:10], *CANARIES.benign[:10]}
    assert (found.verdict, found.lost, found.compared) == ("tampered", 9, 10)
    assert (found.n_answered, found.missing) == (20, {"budget spent": 12})
    assert "rests on the 20 of 32 canaries that have a reply; the budget left out 12" in " ".join(
        found.limits
    )


def test_a_budget_counts_retries_and_gives_no_verdict_where_it_is_too_small(server, fingerprint):
    server.script = lambda prompt: Reply(status=500)
    found = asked(server, fingerprint, max_requests=5)
    assert server.calls == 5
    assert found.verdict == "undecided"
    assert "0 canaries that were refused have a reply, and 7 are needed" in found.why
    server.script = answering([])
    assert asked(server, fingerprint, max_requests=13).verdict == "match"
    assert asked(server, fingerprint, max_requests=12).verdict == "undecided"


def test_a_budget_of_seconds_waits_for_no_reply(server, fingerprint):
    usual = answering(HARMFUL[:9])
    hangs = {*HARMFUL[10:], *CANARIES.benign[10:]}
    server.script = lambda prompt: HANGS if prompt in hangs else usual(prompt)
    warm_up()
    found = asked(server, fingerprint, max_seconds=2.0)
    assert not server.waited_in_vain
    assert set(found.missing) == {"budget spent"}
    # More than those that hang may be left out: a busy machine may answer late.
    missing = found.missing["budget spent"]
    assert missing >= 12
    assert found.verdict == "tampered" or missing > 12


def test_a_budget_of_nothing_is_refused_before_anything_is_sent(server, fingerprint):
    for settings, message in (({"max_requests": 0}, "at least 1"), ({"max_seconds": 0.0}, "above")):
        with pytest.raises(InputError, match=message):
            asked(server, fingerprint, **settings)
    assert server.calls == 0


def test_too_few_earlier_refusals_give_no_verdict(fingerprint):
    for n, verdict in ((6, "undecided"), (7, "match")):
        before = (True,) * n + (False,) * (32 - n)
        few = replace(fingerprint, refused=before)
        assert audit.judge_refusals(before, few, model="served").verdict == verdict


def test_an_answer_cut_at_the_token_limit_counts_as_an_answer(server, fingerprint):
    server.script = lambda prompt: completion(REFUSAL[:20], finish_reason="length")
    found = asked(server, fingerprint, max_new_tokens=5)
    assert (found.missing, found.lost) == ({}, 16)
    assert {body["max_tokens"] for body in server.received} == {5}
    assert {body["temperature"] for body in server.received} == {0.0}


def test_only_the_canaries_are_sent_and_none_is_kept(server, fingerprint):
    server.script = answering(HARMFUL[:9])
    found = asked(server, fingerprint)
    sent = [message["content"] for body in server.received for message in body["messages"]]
    assert sorted(sent) == sorted(CANARIES.prompts)
    kept = json.dumps(found.record()) + str(found)
    assert not any(text in kept for text in (*CANARIES.prompts, REFUSAL, ANSWER))


def test_other_canaries_bad_settings_and_dead_endpoints_raise_an_error(server, fingerprint):
    endpoint = Endpoint("served", base_url="http://127.0.0.1:9/v1", backoff=0.001, retries=0)
    others = Canaries("others", CANARIES.benign, CANARIES.harmful)
    with pytest.raises(InputError, match="not the canaries"):
        attest_answers(endpoint, fingerprint, others)
    with pytest.raises(InputError, match="significance is 0"):
        attest_answers(endpoint, fingerprint, CANARIES, significance=0.0)
    with pytest.raises(JudgeError, match="nothing listens"):
        attest_answers(endpoint, fingerprint, CANARIES)
