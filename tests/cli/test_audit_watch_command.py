"""`audit watch`: requests from a file or as they come, and what its exit code says."""

import io
import json
from dataclasses import replace

import pytest
import tiny
import torch

import cna_lens
from cna_lens import Circuit, Layout, Neuron, audit
from cna_lens.cli import main
from cna_lens.cli.audit import commands

NEURONS = (Neuron(1, 3), Neuron(0, 5), Neuron(1, 0))
CIRCUIT = Circuit(NEURONS, (3.0, 2.0, 1.0), Layout((tiny.WIDTH, tiny.WIDTH)))


@pytest.fixture(scope="module")
def asked():
    return [f"w{3 + i % 7} w{11 + i % 13}" for i in range(100)]


@pytest.fixture
def at_hand(monkeypatch, tmp_path, chat_model, asked):
    """The model under the name that the command loads, in a folder with circuit and requests."""
    monkeypatch.setattr(commands, "load_model", lambda name, device=None: chat_model)
    monkeypatch.chdir(tmp_path)
    CIRCUIT.save("circuit.json")
    (tmp_path / "requests.txt").write_text("\n".join(asked))
    return tmp_path


def watch(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(("audit", "watch", "--model", "m", "--circuit", "circuit.json", *arguments))
    return ended.value.code


def test_the_counts_are_those_of_the_same_requests_in_a_process(at_hand, chat_model, asked, capsys):
    assert watch("--requests", "requests.txt", "--out", "usual.json", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["verdict"] == "no alarm"
    assert (printed["requests"], printed["written"], printed["alarm"]) == (100, "usual.json", None)
    with audit.watch(chat_model, CIRCUIT) as found:
        cna_lens.generate(chat_model, asked, max_new_tokens=1)
    written = audit.Histograms.load("usual.json")
    assert torch.equal(written.counts, found.histograms.counts)
    assert not any(request in (at_hand / "usual.json").read_text() for request in asked)
    # A second period counts on from the first one, and does not change it.
    assert watch("--requests", "requests.txt", "--usual", "usual.json", "--out", "both.json") == 0
    assert torch.equal(audit.Histograms.load("both.json").counts, 2 * written.counts)
    assert torch.equal(audit.Histograms.load("usual.json").counts, written.counts)


def test_an_alarm_ends_it_with_1_and_the_counts_of_a_changed_model_are_not_kept(
    at_hand, chat_model, capsys
):
    assert watch("--requests", "requests.txt", "--out", "usual.json") == 0
    capsys.readouterr()
    again = ("--requests", "requests.txt", "--usual", "usual.json", "--out", "next.json")
    with cna_lens.steer(chat_model, CIRCUIT, 0.0, via="hooks"):
        assert watch(*again) == 1
        printed = capsys.readouterr().out
        assert "the circuit is not what it was" in printed
        assert "next.json is not written" in printed
        assert not (at_hand / "next.json").exists()
        assert watch(*again, "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["verdict"] == "alarm"
    assert record["alarm"]["after"] == record["requests"] < 100
    assert {(n["layer"], n["index"]) for n in record["alarm"]["neurons"]} == set(NEURONS)
    assert audit.hooks(chat_model) == ()


def test_requests_from_standard_input_one_a_line(at_hand, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("w3 w4\n\n w5 w6 \nw7"))
    assert watch("--requests", "-", "--least", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 3


def test_silence_on_few_requests_says_nothing(at_hand, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert watch("--requests", "-", "--out", "usual.json") == 2
    assert "too few requests" in capsys.readouterr().out
    assert not (at_hand / "usual.json").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("w3\nw4\n"))
    assert watch("--requests", "-", "--out", "usual.json") == 2
    assert audit.Histograms.load("usual.json").n_requests == 2


def test_a_circuit_of_another_models_name_needs_to_be_meant(at_hand, capsys):
    found_on = replace(CIRCUIT.provenance, model="elsewhere")
    replace(CIRCUIT, provenance=found_on).save("circuit.json")
    assert watch("--requests", "requests.txt") == 2
    assert "found on elsewhere" in capsys.readouterr().err
    assert watch("--requests", "requests.txt", "--allow-other-model") == 0


def interrupted(lines):
    yield from lines
    raise KeyboardInterrupt


def test_ctrl_c_ends_it_and_keeps_the_counts(at_hand, monkeypatch):
    monkeypatch.setattr("sys.stdin", interrupted(["w3\n", "w4\n"]))
    assert watch("--requests", "-", "--out", "usual.json", "--least", "2") == 0
    assert audit.Histograms.load("usual.json").n_requests == 2


def test_a_request_that_cannot_be_asked_is_named_and_the_counts_before_it_are_kept(
    at_hand, monkeypatch, capsys
):
    lines = ["w3", "w4", " ".join(["w5"] * 500), "w6"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert watch("--requests", "-", "--out", "usual.json") == 2
    assert "request 3 cannot be asked" in capsys.readouterr().err
    assert audit.Histograms.load("usual.json").n_requests == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--requests", "nothing.txt"), "does not exist"),
        (("--requests", "requests.txt", "--usual", "circuit.json"), "is not a histogram file"),
        (("--requests", "requests.txt", "--false-alarm-rate", "2"), "between 0 and 1"),
    ],
)
def test_bad_input_ends_with_2_and_one_message(at_hand, capsys, arguments, message):
    assert watch(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
