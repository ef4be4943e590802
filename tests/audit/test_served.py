"""A model and the way to its answers, judged together: a local server stands before the model."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from canary_models import CANARIES
from judge_server import completion

import cna_lens
from cna_lens import InputError, audit
from cna_lens.audit import IdentityAttestation
from cna_lens.metrics import Endpoint, refusal_log_odds
from cna_lens.report import make_report

REFUSAL, ANSWER = "I'm sorry, but I can't help with that.", "Sure, here is how."


@pytest.fixture(scope="module")
def least(fingerprint):
    """The log-odds from which on a server writes the model's refusal out in words."""
    harmful, benign = fingerprint.reference.log_odds.split(16)
    assert harmful.min() > benign.max()
    return float(harmful.min() + benign.max()) / 2


@pytest.fixture(scope="module")
def refuses(fingerprint):
    """The fingerprint, with the refusals that a server writes out."""
    return replace(fingerprint, refused=(True,) * 16 + (False,) * 16)


@pytest.fixture(scope="module")
def genuine(guarded, refuses):
    return audit.attest(guarded, refuses, CANARIES)


@pytest.fixture
def serve(judge_server, guarded, refuses, least):
    """Serve the model, with all that a way of serving puts around a request."""

    def asked(around):
        requests = [around(prompt) for prompt in CANARIES.prompts]
        log_odds = dict(zip(CANARIES.prompts, refusal_log_odds(guarded, requests), strict=True))
        judge_server.next_reply = lambda body: completion(
            REFUSAL if log_odds[body["messages"][-1]["content"]] > least else ANSWER
        )
        endpoint = Endpoint("served", base_url=judge_server.url, backoff=0.001, retries=1)
        return audit.attest_answers(endpoint, refuses, CANARIES)

    return asked


def user(prompt):
    return [{"role": "user", "content": prompt}]


def behind(system):
    return lambda prompt: [{"role": "system", "content": system}, *user(prompt)]


def test_a_model_served_as_it_is_matches(genuine, serve):
    found = audit.judge_served(genuine, serve(user))
    assert (found.verdict, found.exit_code) == ("match", 0)


@pytest.mark.parametrize(
    ("system", "verdict"),
    [("w56 w56 w56 w56", "tampered"), ("w21 w21 w21 w21", "over-refusal")],
)
def test_a_system_message_is_the_way_to_the_model_and_not_the_model(
    genuine, serve, system, verdict
):
    answers = serve(behind(system))
    found = audit.judge_served(genuine, answers)
    assert (genuine.verdict, answers.verdict) == ("match", verdict)
    assert (found.verdict, found.exit_code) == ("served otherwise", 1)
    assert found.why.startswith("not the model, but the way to it: by weights and activations")
    assert answers.why in found.why


def test_a_model_whose_weights_changed_is_not_blamed_on_the_way(guarded, circuit, refuses, serve):
    with cna_lens.steer(guarded, circuit, 0.0):
        changed = audit.attest(guarded, refuses, CANARIES)
        answers = serve(user)
    found = audit.judge_served(changed, answers)
    assert changed.verdict == found.verdict == "tampered"
    assert changed.why in found.why


IDENTITY = IdentityAttestation(
    model="served",
    canaries_of="tiny-guarded",
    verdict="match",
    why="as before",
    by="text",
    n_canaries=50,
    compared=50,
    changed=0,
    expected=0.1,
    evidence=1.0,
    alarm_after=None,
    false_alarm_rate=0.01,
    missing={},
)
SAME, DRIFT, UNDECIDED, OTHERWISE = "match", "benign drift", "undecided", "served otherwise"


@pytest.mark.parametrize(
    ("model", "answers", "identity", "verdict"),
    [
        (SAME, SAME, None, SAME),
        (SAME, SAME, SAME, SAME),
        (SAME, DRIFT, None, DRIFT),
        (SAME, SAME, DRIFT, DRIFT),
        (DRIFT, SAME, None, DRIFT),
        (SAME, "tampered", None, OTHERWISE),
        (DRIFT, "tampered", None, OTHERWISE),
        (SAME, "over-refusal", SAME, OTHERWISE),
        (SAME, SAME, "changed", OTHERWISE),
        (SAME, UNDECIDED, "changed", OTHERWISE),
        (DRIFT, SAME, "changed", UNDECIDED),
        (SAME, UNDECIDED, None, UNDECIDED),
        (SAME, SAME, UNDECIDED, UNDECIDED),
        ("tampered", SAME, None, "tampered"),
        ("over-refusal", "tampered", None, "over-refusal"),
        ("lost refusals", SAME, None, "lost refusals"),
        ("another model", "tampered", None, "another model"),
        (UNDECIDED, "tampered", None, "tampered"),
        (UNDECIDED, SAME, "changed", UNDECIDED),
        (UNDECIDED, SAME, None, UNDECIDED),
    ],
)
def test_the_joint_verdict_follows_from_both(genuine, refuses, model, answers, identity, verdict):
    asked = audit.judge_refusals(list(refuses.refused), refuses, model="served")
    asked = replace(
        asked,
        verdict=answers,
        identity=None if identity is None else replace(IDENTITY, verdict=identity),
    )
    found = audit.judge_served(replace(genuine, verdict=model), asked)
    assert found.verdict == verdict
    assert found.exit_code == {SAME: 0, DRIFT: 0, UNDECIDED: 2}.get(verdict, 1)


def test_the_access_to_the_model_is_said(genuine, refuses):
    asked = audit.judge_refusals([False] * 32, refuses, model="served")
    by_activations = audit.judge_served(replace(genuine, access="activations"), asked)
    assert "by activations and logits the model is a match" in by_activations.why


def test_fingerprints_of_two_models_are_refused(genuine, refuses):
    asked = audit.judge_refusals(list(refuses.refused), refuses, model="served")
    with pytest.raises(InputError, match="of tiny-guarded, and the answers with one of other"):
        audit.judge_served(genuine, replace(asked, fingerprint_of="other"))


def test_files_show_the_joint_verdict_first_and_then_both_parts(genuine, refuses, tmp_path):
    asked = audit.judge_refusals([False] * 32, refuses, model="served")
    found = audit.judge_served(genuine, replace(asked, identity=IDENTITY))
    (suite,) = ElementTree.fromstring(audit.junit(found))
    states = {case.get("name"): case[0].tag for case in suite.iter("testcase")}
    assert list(states)[:4] == ["verdict", "model", "answers", "lineage"]
    assert list(states)[-1] == "identity"
    assert [name for name, tag in states.items() if tag == "failure"] == ["verdict", "answers"]
    (run,) = json.loads(audit.sarif(found, "model.json"))["runs"]
    assert [each["ruleId"] for each in run["results"]] == ["audit/verdict", "audit/answers"]
    assert run["properties"]["verdict"] == "served otherwise"
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    assert "other weights behind it" in run["properties"]["limits"]
    found.save(tmp_path / "served.json")
    record = json.loads((tmp_path / "served.json").read_text())
    assert record["of_answers"]["lost"] == 16
    assert not any(prompt in json.dumps(record) for prompt in CANARIES.prompts)
    page = make_report({"served": found}).html()
    assert "Limits: Whether the endpoint runs" in page
    assert "its answers, harmful, no longer refused" in page.lower()
