"""Sampled answers: refusals are counted, and so few are compared with what chance gives."""

import json
from dataclasses import replace
from itertools import combinations, product
from xml.etree import ElementTree

import numpy as np
import pytest
from canary_models import CANARIES, with_samples
from judge_server import Reply, completion

from cna_lens import InputError, audit
from cna_lens.audit.fingerprints.fingerprint import FILE
from cna_lens.errors import FingerprintError
from cna_lens.metrics import Endpoint, Missing
from cna_lens.report import make_report

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how."
N = len(CANARIES.harmful)
NOTHING = Missing("not asked")


def judged(fingerprint, answers, **settings):
    return audit.judge_sampled_answers(answers, fingerprint, model="served", **settings)


def test_the_p_value_is_the_share_of_equally_likely_tables_with_so_few(fingerprint):
    # Of the first canary's 2 and 2 answers 3 refuse, 1 of them now; of the second's 2 and 1 one.
    taken = with_samples(fingerprint, [2, 1, *[0] * (N - 2)], samples=2)
    answers = [[REFUSAL, ANSWER], [ANSWER], *[[NOTHING]] * (N - 2)]
    seen = [(2, 3), (1, 1)]
    as_few = every = 0
    for tables in product(*(combinations(range(2 + now), both) for now, both in seen)):
        # The last answers are those of now.
        refused = sum(place >= 2 for table in tables for place in table)
        as_few += refused <= 1
        every += 1
    found = judged(taken, answers)
    assert found.p_value == pytest.approx(as_few / every)
    assert (found.compared, found.refused, found.samples) == (3, 1, 2)
    assert found.expected == pytest.approx(2 * 1 + 1 * 0.5)
    assert found.score == pytest.approx(1 - 1 / 2.5)
    assert found.missing == {"not asked": N - 2}


@pytest.mark.parametrize(
    ("lost", "verdict", "code"), [(0, "match", 0), (2, "match", 0), (3, "tampered", 1)]
)
def test_fewer_refusals_than_chance_explains_are_tampering(fingerprint, lost, verdict, code):
    # One answer each beside four that refuse: it is lost by chance with 1/5, so 3 with .008.
    taken = with_samples(fingerprint, [4] * N)
    found = judged(taken, [[ANSWER]] * lost + [[REFUSAL]] * (N - lost))
    assert found.p_value == pytest.approx(0.2**lost)
    assert (found.verdict, found.exit_code) == (verdict, code)


def test_a_canary_that_was_never_refused_says_nothing(fingerprint):
    taken = with_samples(fingerprint, [4] * 3 + [0] * (N - 3))
    found = judged(taken, [[ANSWER]] * N)
    assert found.p_value == pytest.approx(0.2**3)
    # New refusals of others weigh against the lost ones: each is there by chance with 1/5.
    more = judged(taken, [[ANSWER]] * 3 + [[REFUSAL]] * 2 + [[ANSWER]] * (N - 5))
    assert more.p_value > 0.1
    assert more.refused == 2


def test_too_few_answers_for_any_outcome_give_no_verdict(fingerprint):
    taken = with_samples(fingerprint, [4] * N)
    nothing = [[NOTHING]]
    found = judged(taken, [[ANSWER]] * 2 + nothing * (N - 2))
    assert (found.verdict, found.exit_code) == ("undecided", 2)
    assert judged(taken, [[ANSWER]] * 3 + nothing * (N - 3)).verdict == "tampered"
    found = judged(taken, nothing * N)
    assert (found.verdict, found.score, found.p_value) == ("undecided", 0.0, 1.0)


def test_the_same_model_is_rarely_called_tampered_with(fingerprint):
    draws = np.random.default_rng(0)
    chances = draws.uniform(0.2, 0.99, N)
    alarms = 0
    for _ in range(200):
        taken = with_samples(fingerprint, draws.binomial(4, chances).tolist())
        refuses = draws.random((2, N)) < chances
        answers = [[REFUSAL if each else ANSWER for each in canary] for canary in refuses.T]
        alarms += judged(taken, answers, significance=0.05).verdict == "tampered"
    # 10 are expected at most; 19 is three standard deviations beyond.
    assert 1 <= alarms <= 19


@pytest.mark.parametrize(
    ("refused", "message"),
    [([4] * (N - 1), f"answers to {N - 1} canaries, and {N} harmful"), ([5] * N, "0 to 4")],
)
def test_a_file_whose_samples_cannot_be_is_refused(fingerprint, refused, message):
    body = json.loads(with_samples(fingerprint, [4] * N).content())
    body["sampled"]["refused"] = refused
    body.pop("sha256", None)
    written = FILE.encode({k: v for k, v in body.items() if k not in ("format", "version")})
    with pytest.raises(FingerprintError, match=message):
        audit.Fingerprint.parse(written.encode())


def test_a_p_value_is_never_0(fingerprint):
    taken = with_samples(fingerprint, [200] * N, samples=200)
    assert 0 < judged(taken, [[ANSWER] * 200] * N).p_value < 1e-299


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
    taken = with_samples(fingerprint, [4] * N)
    found = asked(server, taken, samples=3)
    sent = [body["messages"][-1]["content"] for body in server.received]
    assert sorted(sent) == sorted(CANARIES.harmful * 3)
    assert {(body["temperature"], body["top_p"]) for body in server.received} == {(1.0, 1.0)}
    assert {body["max_tokens"] for body in server.received} == {audit.ANSWER_TOKENS}
    assert (found.compared, found.refused, found.verdict) == (3 * N, 3 * N, "match")
    server.script = lambda _: completion(ANSWER)
    assert asked(server, taken, samples=3).verdict == "tampered"


def test_answers_belong_to_their_canaries(server, fingerprint):
    # Only the first canary is ever refused, and now it is not.
    taken = with_samples(fingerprint, [4, *[0] * (N - 1)])
    first = CANARIES.harmful[0]
    server.script = lambda said: Reply(status=500) if said != first else completion(ANSWER)
    found = asked(server, taken, samples=2)
    assert found.expected == 2
    # Of 6 answers 4 refuse; that both of now are the others has the probability 1/15.
    assert found.p_value == pytest.approx(1 / 15)
    assert found.missing == {"HTTP 500": 2 * (N - 1)}


def test_a_reply_that_reasons_to_its_end_is_no_answer(server, fingerprint):
    taken = with_samples(fingerprint, [4] * N)
    server.script = lambda _: completion("<think>The user asks me for")
    found = asked(server, taken, samples=1)
    assert found.missing == {"reasoning did not end": N}
    assert (found.verdict, found.score) == ("undecided", 0.0)
    server.script = lambda _: completion(f"<think>No.</think>{REFUSAL}")
    assert asked(server, taken, samples=1).refused == N


def test_a_budget_asks_every_canary_once_before_any_is_asked_again(server, fingerprint):
    taken = with_samples(fingerprint, [4] * N)
    found = asked(server, taken, samples=2, max_requests=N)
    sent = [body["messages"][-1]["content"] for body in server.received]
    assert sorted(sent) == sorted(CANARIES.harmful)
    assert found.missing == {"budget spent": N}


def test_what_cannot_be_asked_raises_before_a_request(server, fingerprint):
    taken = with_samples(fingerprint, [4] * N)
    with pytest.raises(InputError, match=r"temperature is 0.*temperature=1"):
        asked(server, taken, temperature=0.0)
    with pytest.raises(InputError, match="samples is 0"):
        asked(server, taken, samples=0)
    with pytest.raises(InputError, match="between 0 and 1"):
        asked(server, taken, significance=1.0)
    with pytest.raises(FingerprintError, match="no sampled answers"):
        asked(server, replace(fingerprint, sampled=None))
    other = replace(CANARIES, harmful=CANARIES.benign, benign=CANARIES.harmful)
    with pytest.raises(InputError, match="not the canaries of the fingerprint"):
        audit.attest_sampled_answers(Endpoint("m", temperature=1.0), taken, other)
    with pytest.raises(InputError, match="answers to 1 canaries"):
        judged(taken, [[REFUSAL]])
    assert server.received == []


def test_the_result_holds_no_text_and_shows_what_it_rests_on(fingerprint, tmp_path):
    found = judged(with_samples(fingerprint, [4] * N), [[REFUSAL]] * 12 + [[ANSWER]] * (N - 12))
    found.save(tmp_path / "found.json")
    written = (tmp_path / "found.json").read_text()
    assert "sorry" not in written
    assert "here is how" not in written
    assert json.loads(written)["verdict"] == "tampered"
    assert "12 of 16 answers refuse, 16.0 expected" in str(found)
    assert "rests on the 16 of 16 answers" in " ".join(found.limits)
    (case,) = ElementTree.fromstring(audit.junit(found)).iter("testcase")
    assert case.get("name") == "verdict"
    assert [child.tag for child in case] == ["failure"]
    assert json.loads(audit.sarif(found, tmp_path / "model.json"))["runs"][0]["results"]
    page = tmp_path / "audit.html"
    make_report({"served": found}).save(page)
    assert "12 of 16 answers refuse" in page.read_text()


def test_a_fingerprint_counts_the_refusals_among_its_samples(guarded, circuit, monkeypatch):
    asked = []

    def drawn(model, prompts, **settings):
        if settings.get("temperature", 0.0) == 0.0:
            return [ANSWER] * len(prompts)
        asked.append((len(prompts), settings["temperature"], settings["max_new_tokens"]))
        # Of the first canary all are refused, of the second every other one.
        refused = [place % N == 0 or place in (1, 2 * N + 1) for place in range(len(prompts))]
        return [REFUSAL if each else ANSWER for each in refused]

    monkeypatch.setattr("cna_lens.audit.measuring.sampled_refusals.generate", drawn)
    options = {"rankings": ("contrast",), "progress": False}
    taken = audit.fingerprint(guarded, circuit, CANARIES, samples=4, **options)
    assert asked == [(4 * N, 1.0, audit.ANSWER_TOKENS)]
    assert (taken.sampled.samples, taken.sampled.refused) == (4, (4, 2, *[0] * (N - 2)))
    assert audit.Fingerprint.parse(taken.content()).sampled == taken.sampled
    without = audit.fingerprint(guarded, circuit, CANARIES, samples=0, **options)
    assert without.sampled is None
    assert "sampled" not in json.loads(without.content())
    with pytest.raises(InputError, match="samples is -1"):
        audit.fingerprint(guarded, circuit, CANARIES, samples=-1, **options)
