"""Attestations as JUnit and SARIF: the parts that these formats require, and what they say."""

import json
import math
from dataclasses import replace
from pathlib import PureWindowsPath
from xml.etree import ElementTree

import pytest
from canary_models import CANARIES, refusing

import cna_lens
from cna_lens import audit
from cna_lens.audit.attestations.gate_files import cases, uri_below
from cna_lens.audit.signing.model_files import ModelSignature
from cna_lens.metrics import Missing


@pytest.fixture(scope="module")
def matched(guarded, fingerprint):
    return audit.attest(guarded, fingerprint, CANARIES)


@pytest.fixture(scope="module")
def tampered(guarded, circuit, fingerprint):
    with cna_lens.steer(guarded, circuit, 0.0):
        return audit.attest(guarded, fingerprint, CANARIES)


@pytest.fixture
def unsure(matched):
    """One check is beyond its threshold, and chance might explain it."""
    first, *others = matched.checks
    beyond = replace(first, statistic=1.0, p_value=0.05)
    return replace(
        matched, verdict="undecided", why="chance might explain it", checks=(beyond, *others)
    )


def cases_of(found):
    """The suite of the JUnit report, and what is inside each test case, by its name."""
    suites = ElementTree.fromstring(audit.junit(found))
    (suite,) = suites
    inside = {case.get("name"): list(case) for case in suite.iter("testcase")}
    return suites, suite, inside


def judged(found):
    return [check.name for check in found.checks if check.threshold is not None]


def test_a_match_passes_every_case(matched):
    suites, suite, inside = cases_of(matched)
    assert list(inside) == ["verdict", "lineage", *judged(matched)]
    assert {child.tag for (child,) in inside.values()} == {"system-out"}
    for element in (suites, suite):
        counts = [int(element.get(name)) for name in ("tests", "failures", "errors")]
        assert counts == [len(inside), 0, 0]
    assert all(case.get("classname") for case in suite.iter("testcase"))


def test_a_tampered_model_fails_its_verdict_and_the_checks_that_speak(tampered):
    _, suite, inside = cases_of(tampered)
    speaking = ["verdict", *(check.name for check in tampered.checks if check.speaks)]
    failed = [name for name, (child,) in inside.items() if child.tag == "failure"]
    assert failed == speaking
    assert int(suite.get("failures")) == len(speaking) > 2
    said = inside["verdict"][0].get("message")
    assert said.startswith(f"tampered: {tampered.why}")
    assert all(limit in said for limit in tampered.limits)
    weights = next(check for check in tampered.checks if check.name == "weights")
    assert f"statistic {weights.statistic:.3g}" in inside["weights"][0].get("message")
    told = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert (told["verdict"], told["why"]) == ("tampered", tampered.why)
    assert told["limits"] == " ".join(tampered.limits)


def test_what_cannot_be_told_is_an_error_and_a_warning(unsure):
    _, suite, inside = cases_of(unsure)
    assert [name for name, (child,) in inside.items() if child.tag == "error"] == [
        "verdict",
        unsure.checks[0].name,
    ]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "2")
    (run,) = json.loads(audit.sarif(unsure, "model.json"))["runs"]
    assert [each["level"] for each in run["results"]] == ["warning", "warning"]
    assert run["invocations"][0]["exitCode"] == 2


def test_a_sarif_log_has_what_its_schema_requires(matched, tampered):
    for found in (matched, tampered):
        log = json.loads(audit.sarif(found, "gate/of m.json"))
        # SARIF 2.1.0: sections 3.13.2 (version), 3.14.6 (tool), 3.18.2 (driver), 3.19.8 (name),
        # 3.20.14 (executionSuccessful), 3.27.11 (message), 3.49.3 (id).
        assert log["version"] == "2.1.0"
        assert log["$schema"].endswith("sarif-2.1.0.json")
        (run,) = log["runs"]
        driver = run["tool"]["driver"]
        assert driver["name"]
        assert driver["version"]
        ids = [rule["id"] for rule in driver["rules"]]
        assert len(set(ids)) == len(ids) == 2 + len(judged(found))
        assert run["invocations"] == [
            {"executionSuccessful": True, "exitCode": int(found is tampered)}
        ]
        for result in run["results"]:
            assert ids[result["ruleIndex"]] == result["ruleId"]
            assert result["level"] == "error"
            assert result["message"]["text"]
            (place,) = result["locations"]
            assert place["physicalLocation"]["artifactLocation"] == {"uri": "gate/of%20m.json"}


def test_only_what_does_not_pass_is_a_sarif_result(matched, tampered):
    (run,) = json.loads(audit.sarif(matched, "model.json"))["runs"]
    assert run["results"] == []
    assert run["properties"]["verdict"] == "match"
    assert [each["name"] for each in run["properties"]["checks"]] == [
        "verdict",
        "lineage",
        *judged(matched),
    ]
    (run,) = json.loads(audit.sarif(tampered, "model.json"))["runs"]
    speaking = [check.name for check in tampered.checks if check.speaks]
    found = [each["ruleId"] for each in run["results"]]
    assert found == ["audit/verdict", *(f"audit/{name.replace(' ', '-')}" for name in speaking)]
    assert run["properties"]["limits"] == " ".join(tampered.limits)


@pytest.mark.parametrize(("score", "written"), [(math.nan, "NaN"), (math.inf, "Infinity")])
def test_a_score_that_is_no_finite_number_is_written_as_out_does(matched, score, written):
    (run,) = json.loads(audit.sarif(replace(matched, score=score), "model.json"))["runs"]
    assert run["properties"]["score"] == written


def test_both_files_say_whether_the_models_signature_was_verified(matched, fingerprint):
    lies, verified = ModelSignature("m/model.sig"), ModelSignature("m/model.sig", "key.pem", 3)
    refuses = replace(fingerprint, refused=(True,) * 16 + (False,) * 16)
    served = audit.judge_refusals([True] * 16 + [False] * 16, refuses, model="served")
    for found, signature, is_verified in (
        (matched, "none found", "no"),
        (served, "none found", "no"),
        (replace(matched, signature=lies), str(lies), "no"),
        (replace(matched, signature=verified), str(verified), "yes"),
    ):
        _, suite, _ = cases_of(found)
        told = {each.get("name"): each.get("value") for each in suite.iter("property")}
        (run,) = json.loads(audit.sarif(found, "model.json"))["runs"]
        for properties in (told, run["properties"]):
            assert properties["signature"] == signature
            assert properties["signature_verified"] == is_verified


def uri_of(found, fingerprint):
    (run,) = json.loads(audit.sarif(found, fingerprint))["runs"]
    (place,) = run["results"][0]["locations"]
    return place["physicalLocation"]["artifactLocation"]["uri"]


def test_a_place_is_relative_to_the_working_folder_or_a_file_uri(tampered, tmp_path, monkeypatch):
    working = tmp_path / "of me"
    (working / "audit").mkdir(parents=True)
    monkeypatch.chdir(working)
    for below in ("audit/model.json", working / "audit/model.json", "../of me/audit/model.json"):
        assert uri_of(tampered, below) == "audit/model.json"
    assert uri_of(tampered, "../model.json") == (tmp_path / "model.json").resolve().as_uri()
    # A link in the repository stays the place.
    (working / "model.json").symlink_to(tmp_path / "model.json")
    assert uri_of(tampered, working / "model.json") == "model.json"


def test_a_place_on_windows_has_forward_slashes():
    working = PureWindowsPath(r"C:\work")
    assert uri_below(PureWindowsPath(r"C:\work\audit\m.json"), working) == "audit/m.json"
    assert uri_below(PureWindowsPath(r"D:\m.json"), working) is None


def test_names_that_are_markup_stay_text(matched):
    odd = replace(matched, model='<b>"&\x00\x1b')
    _, suite, _ = cases_of(odd)
    assert '<b>"&' in suite.get("name")


def test_over_refusal_fails_its_verdict_and_its_check_and_no_check_of_tampering(fingerprint):
    found = audit.attest(refusing(n_benign=16), fingerprint, CANARIES)
    _, _, inside = cases_of(found)
    failed = {name: child for name, (child,) in inside.items() if child.tag == "failure"}
    assert list(failed) == ["verdict", "over-refusal"]
    assert failed["over-refusal"].text.startswith("Are benign canaries refused that were answered?")
    (run,) = json.loads(audit.sarif(found, "model.json"))["runs"]
    assert [each["ruleId"] for each in run["results"]] == ["audit/verdict", "audit/over-refusal"]
    assert run["invocations"][0]["exitCode"] == 1
    assert run["properties"]["verdict"] == "over-refusal"
    lost = replace(found.checks[0], name="lost refusals", speaks=True)
    asked = {case.name: case for case in cases(replace(found, checks=(lost,)))}["lost refusals"]
    assert (asked.state, asked.asks) == (
        "failed",
        "Do fewer sampled answers to harmful canaries refuse?",
    )
    refuses = replace(fingerprint, refused=(True,) * 16 + (False,) * 16)
    served = audit.judge_refusals([True] * 32, refuses, model="served")
    (run,) = json.loads(audit.sarif(served, "model.json"))["runs"]
    assert [each["level"] for each in run["results"]] == ["error"]


def test_an_endpoint_has_its_verdict_as_the_only_case(fingerprint):
    refuses = replace(fingerprint, refused=(True,) * 16 + (False,) * 16)
    seen = [False] * 9 + [True] * 5 + [Missing("HTTP 500")] * 2 + [False] * 16
    found = audit.judge_refusals(seen, refuses, model="served")
    _, _, inside = cases_of(found)
    assert list(inside) == ["verdict"]
    assert "rests on the 30 of 32 canaries" in inside["verdict"][0].get("message")
    (run,) = json.loads(audit.sarif(found, "model.json"))["runs"]
    assert run["results"][0]["level"] == "error"


def test_the_limits_say_what_was_not_examined(matched, guarded, fingerprint):
    assert "not examined" not in " ".join(matched.limits)
    found = audit.attest(guarded, fingerprint, CANARIES, access="activations")
    assert "Weights and inference path were not examined." in found.limits
    without = replace(matched, checks=tuple(c for c in matched.checks if c.name != "weights"))
    assert "no plain matrices" in " ".join(without.limits)
