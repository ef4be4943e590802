"""Circuits on the Hub: pushed to a server on this machine, and read back at a commit."""

import json
import re
from dataclasses import replace

import pytest
import results
import yaml
from hub_server import PushedHub, move_hub, use_hub
from huggingface_hub import constants

import cna_lens
from cna_lens import Circuit, CircuitFileError, HubError, InputError

NAME = "me/refusal-tiny"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with PushedHub() as server:
        use_hub(monkeypatch, server.url, tmp_path / "hub")
        yield server


def card_of(hub):
    text = hub.files(NAME)["README.md"].decode()
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def forgotten(circuit):
    return circuit.with_provenance(hub=None)


def test_a_pushed_circuit_is_read_back_with_the_commit_it_came_from(hub):
    circuit = results.circuit()
    revision = circuit.push_to_hub(NAME)
    assert revision in hub.repositories[NAME]
    found = Circuit.from_hub(NAME, revision=revision)
    assert found.provenance.hub == f"{NAME}@{revision}"
    assert forgotten(found) == circuit
    newest = Circuit.from_hub(NAME)
    assert newest.provenance.hub == f"{NAME}@{list(hub.repositories[NAME])[-1]}"
    assert forgotten(newest) == circuit


def test_a_revision_stays_what_it_was_when_another_circuit_is_pushed(hub):
    first = results.circuit(seed=0).push_to_hub(NAME)
    results.circuit(seed=1).push_to_hub(NAME)
    assert forgotten(Circuit.from_hub(NAME, revision=first)) == results.circuit(seed=0)
    assert forgotten(Circuit.from_hub(NAME)) == results.circuit(seed=1)
    assert len(hub.asked) == 2


def test_the_repository_holds_the_file_of_save_the_evidence_and_the_card_and_no_more(hub, tmp_path):
    circuit = results.circuit()
    circuit.save(tmp_path / "circuit.json")
    circuit.push_to_hub(NAME)
    files = hub.files(NAME)
    assert set(files) == {"circuit.json", "evidence.json", "README.md"}
    assert files["circuit.json"] == (tmp_path / "circuit.json").read_bytes()
    assert json.loads(files["evidence.json"]) == []


def test_the_evidence_is_published_as_its_own_files_hold_it(hub, tmp_path):
    evidence = [*results.evidence().values(), results.comparison()]
    results.circuit().push_to_hub(NAME, evidence=evidence)
    published = json.loads(hub.files(NAME)["evidence.json"])
    assert [each["evidence"] for each in published] == [type(each).__name__ for each in evidence]
    for result, found in zip(evidence[:-1], published, strict=False):
        result.save(tmp_path / "evidence.json")
        assert json.loads((tmp_path / "evidence.json").read_text()) == found


def test_the_card_pins_the_commit_and_shows_provenance_and_evidence(hub):
    evidence = [results.evidence()["null"], results.evidence()["stability"], results.comparison()]
    circuit = results.circuit().with_provenance(
        weights_sha256="ab" * 32, versions=(("cna-lens", "1.2.3"),)
    )
    revision = circuit.push_to_hub(
        NAME, evidence=evidence, base_model="me/tiny", license="mit", private=True
    )
    header, body = card_of(hub)
    assert header["base_model"] == "me/tiny"
    assert header["license"] == "mit"
    assert header["library_name"] == "cna-lens"
    assert "circuit" in header["tags"]
    assert f'Circuit.from_hub("{NAME}", revision="{revision}")' in body
    assert "load_model('me/tiny')" in body
    assert "ab" * 32 in body
    assert "cna-lens 1.2.3" in body
    for result in evidence:
        assert f"### {type(result).__name__}" in body
    unsteered, *others = results.comparison().rows
    table = [line for line in body.splitlines() if line.startswith("| ")]
    for row in (unsteered, *others):
        share = str(row.behaviour).partition(" [")[0]
        assert any(f"| {row.method} |" in line and share in line for line in table)
    assert "Nothing that tests this circuit" not in body
    asked = hub.asked[0]
    assert asked.get("visibility") == "private" or asked.get("private") is True


def test_the_code_of_the_card_reads_the_circuit(hub, monkeypatch, llama):
    layout = cna_lens.Layout((24, 24))
    circuit = Circuit((cna_lens.Neuron(1, 3),), (1.0,), layout)
    circuit = circuit.with_provenance(model="tiny-llama")
    circuit.push_to_hub(NAME)
    code = card_of(hub)[1].split("```python\n")[1].split("```")[0]
    monkeypatch.setattr(cna_lens, "load_model", lambda name: {"tiny-llama": llama}[name])
    monkeypatch.setattr(cna_lens, "generate", lambda model, prompts: [f"answer of {model}"])
    names = {}
    exec(code, names)
    assert forgotten(names["circuit"]) == circuit


def test_a_card_without_evidence_says_so(hub):
    results.circuit().push_to_hub(NAME)
    assert "Nothing that tests this circuit" in card_of(hub)[1]


def test_a_hostile_name_stays_text_on_the_card(hub):
    hostile = "a|b\n```\n# title <script>"
    circuit = results.circuit().with_provenance(model=hostile)
    circuit.push_to_hub(NAME, evidence=[circuit])
    _, body = card_of(hub)
    assert "\n# title" not in body
    assert len(re.findall("^```", body, re.MULTILINE)) == 2
    fact = next(line for line in body.splitlines() if line.startswith("- model: "))
    assert fact == "- model: a\\|b↵\\`\\`\\`↵\\# title \\<script\\>"


@pytest.mark.parametrize("name", ["refusal", "me/refusal/x", "me/re fusal", ""])
def test_a_name_that_is_no_repository_is_refused_before_anything_is_sent(hub, name):
    with pytest.raises(InputError, match="expected 'owner/name'"):
        results.circuit().push_to_hub(name)
    with pytest.raises(InputError, match="expected 'owner/name'"):
        Circuit.from_hub(name)
    assert not hub.asked


def test_what_the_hub_lacks_is_named(hub):
    with pytest.raises(HubError, match=r"circuit\.json of me/refusal-tiny.*no public repository"):
        Circuit.from_hub(NAME)
    results.circuit().push_to_hub(NAME)
    with pytest.raises(HubError, match=r"at v7 could not be read: .*no such revision"):
        Circuit.from_hub(NAME, revision="v7")
    hub.repositories[NAME]["1" * 40] = {"README.md": b""}
    with pytest.raises(HubError, match="no such file"):
        Circuit.from_hub(NAME)


def test_an_altered_circuit_is_refused(hub):
    results.circuit().push_to_hub(NAME)
    content = hub.files(NAME)["circuit.json"].replace(b'"widths": [\n  40', b'"widths": [\n  41')
    hub.repositories[NAME]["1" * 40] = {"circuit.json": content}
    with pytest.raises(CircuitFileError, match="was altered"):
        Circuit.from_hub(NAME)


def test_a_token_without_the_right_and_an_unreachable_hub_have_different_errors(hub, monkeypatch):
    hub.refusal = (403, "")
    with pytest.raises(HubError, match=r"could not be created: the Hub does not allow it.*token"):
        results.circuit().push_to_hub(NAME)
    move_hub(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        results.circuit().push_to_hub(NAME)
    with pytest.raises(HubError, match="cannot be reached"):
        Circuit.from_hub(NAME)


def test_a_pinned_circuit_is_read_from_the_cache_offline(hub, monkeypatch):
    revision = results.circuit().push_to_hub(NAME)
    online = Circuit.from_hub(NAME, revision=revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.refusal = (500, "")
    assert Circuit.from_hub(NAME, revision=revision) == online
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids it"):
        Circuit.from_hub("me/another", revision=revision)


def test_a_circuit_that_may_not_be_read_is_not_called_unreachable(hub):
    revision = results.circuit().push_to_hub(NAME)
    hub.refusal = (403, "")
    with pytest.raises(HubError, match="the Hub does not allow it"):
        Circuit.from_hub(NAME, revision=revision[:-1] + "0")


def test_a_circuit_that_was_never_on_the_hub_has_the_same_file_as_before(tmp_path):
    circuit = results.circuit()
    circuit.save(tmp_path / "circuit.json")
    assert "hub" not in json.loads((tmp_path / "circuit.json").read_text())["provenance"]
    read = replace(circuit, provenance=replace(circuit.provenance, hub="me/x@1"))
    read.save(tmp_path / "read.json")
    assert Circuit.load(tmp_path / "read.json") == read


def test_what_is_no_result_is_refused_before_anything_is_sent(hub, without_type_checks):
    with pytest.raises(InputError, match="evidence holds a float, expected results"):
        results.circuit().push_to_hub(NAME, evidence=[0.03])
    assert not hub.asked
