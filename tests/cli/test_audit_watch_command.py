"""`audit watch`: requests from a file or from standard input, and its exit codes."""

import io
import json
import re
from dataclasses import replace
from functools import partial
from urllib.request import urlopen

import pytest
import tiny
import torch

import cna_lens
from cna_lens import Circuit, Layout, Neuron, audit

NEURONS = (Neuron(1, 3), Neuron(0, 5), Neuron(1, 0))
CIRCUIT = Circuit(NEURONS, (3.0, 2.0, 1.0), Layout((tiny.WIDTH, tiny.WIDTH)))


@pytest.fixture(scope="module")
def asked():
    return [f"w{3 + i % 7} w{11 + i % 13}" for i in range(100)]


@pytest.fixture
def watch(run, loads, monkeypatch, tmp_path, chat_model, asked):
    """Run `audit watch` on the chat model, in a folder with a circuit and requests."""
    loads(chat_model)
    monkeypatch.chdir(tmp_path)
    CIRCUIT.save("circuit.json")
    (tmp_path / "requests.txt").write_text("\n".join(asked))
    return partial(run, "audit", "watch", "--model", "m", "--circuit", "circuit.json")


def test_the_counts_equal_those_of_the_same_requests_in_python(watch, tmp_path, chat_model, asked):
    code, output, _ = watch("--requests", "requests.txt", "--out", "usual.json", "--json")
    printed = json.loads(output)
    assert (code, printed["verdict"]) == (0, "no alarm")
    assert (printed["requests"], printed["written"], printed["alarm"]) == (100, "usual.json", None)
    with audit.watch(chat_model, CIRCUIT) as found:
        cna_lens.generate(chat_model, asked, max_new_tokens=1)
    written = audit.Histograms.load("usual.json")
    assert torch.equal(written.counts, found.histograms.counts)
    assert not any(request in (tmp_path / "usual.json").read_text() for request in asked)
    # A second period counts on from the first one, and does not change it.
    again = watch("--requests", "requests.txt", "--usual", "usual.json", "--out", "both.json")
    assert again[0] == 0
    assert torch.equal(audit.Histograms.load("both.json").counts, 2 * written.counts)
    assert torch.equal(audit.Histograms.load("usual.json").counts, written.counts)


def test_an_alarm_exits_with_1_and_discards_the_counts_of_the_changed_model(
    watch, tmp_path, chat_model
):
    assert watch("--requests", "requests.txt", "--out", "usual.json")[0] == 0
    again = ("--requests", "requests.txt", "--usual", "usual.json", "--out", "next.json")
    with cna_lens.steer(chat_model, CIRCUIT, 0.0, via="hooks"):
        code, output, _ = watch(*again)
        assert code == 1
        assert "the circuit is not what it was" in output
        assert "next.json is not written" in output
        assert not (tmp_path / "next.json").exists()
        code, output, _ = watch(*again, "--json")
    record = json.loads(output)
    assert (code, record["verdict"]) == (1, "alarm")
    assert record["alarm"]["after"] == record["requests"] < 100
    assert {(n["layer"], n["index"]) for n in record["alarm"]["neurons"]} == set(NEURONS)
    assert audit.hooks(chat_model) == ()


def test_standard_input_has_one_request_per_line(watch, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("w3 w4\n\n w5 w6 \nw7"))
    code, output, _ = watch("--requests", "-", "--least", "3", "--json")
    assert (code, json.loads(output)["requests"]) == (0, 3)


def test_no_alarm_on_few_requests_exits_with_2(watch, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, output, _ = watch("--requests", "-", "--out", "usual.json")
    assert code == 2
    assert "too few requests" in output
    assert not (tmp_path / "usual.json").exists()
    monkeypatch.setattr("sys.stdin", io.StringIO("w3\nw4\n"))
    code, output, _ = watch("--requests", "-", "--out", "usual.json")
    assert (code, "too few requests" in output) == (2, True)
    assert audit.Histograms.load("usual.json").n_requests == 2


def test_a_circuit_of_another_models_name_needs_the_option(watch):
    found_on = replace(CIRCUIT.provenance, model="elsewhere")
    replace(CIRCUIT, provenance=found_on).save("circuit.json")
    code, _, errors = watch("--requests", "requests.txt")
    assert code == 2
    assert "found on elsewhere" in errors
    assert watch("--requests", "requests.txt", "--allow-other-model")[0] == 0


def interrupted(lines):
    yield from lines
    raise KeyboardInterrupt


def test_ctrl_c_ends_the_watch_and_keeps_the_counts(watch, monkeypatch):
    monkeypatch.setattr("sys.stdin", interrupted(["w3\n", "w4\n"]))
    assert watch("--requests", "-", "--out", "usual.json", "--least", "2")[0] == 0
    assert audit.Histograms.load("usual.json").n_requests == 2


def test_a_request_too_long_is_named_and_the_counts_before_it_are_kept(watch, monkeypatch):
    lines = ["w3", "w4", " ".join(["w5"] * 500), "w6"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    code, _, errors = watch("--requests", "-", "--out", "usual.json")
    assert code == 2
    assert "request 3 cannot be asked" in errors
    assert audit.Histograms.load("usual.json").n_requests == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--requests", "nothing.txt"), "does not exist"),
        (("--requests", "requests.txt", "--usual", "circuit.json"), "is not a histogram file"),
        (("--requests", "requests.txt", "--false-alarm-rate", "2"), "between 0 and 1"),
    ],
)
def test_bad_input_exits_with_2_and_one_message(watch, arguments, message):
    code, _, errors = watch(*arguments)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.long
def test_metrics_are_served_while_requests_run_and_an_alarm_does_not_end_them(
    watch, monkeypatch, chat_model, asked, capsys
):
    assert watch("--requests", "requests.txt", "--out", "usual.json")[0] == 0
    seen = []

    def lines():
        said = capsys.readouterr().err
        url = re.search(r"Metrics at (http://127\.0\.0\.1:\d+/metrics)", said).group(1)
        yield from (f"{each}\n" for each in asked)
        seen.append(urlopen(url, timeout=10).read().decode())

    monkeypatch.setattr("sys.stdin", lines())
    served = ("--requests", "-", "--usual", "usual.json", "--metrics-port", 0, "--out", "next.json")
    with cna_lens.steer(chat_model, CIRCUIT, 0.0, via="hooks"):
        code, output, _ = watch(*served)
    assert code == 1
    assert "next.json is not written" in output
    (text,) = seen
    assert re.search(r"^cna_lens_watch_alarm{.*} 1.0$", text, re.MULTILINE)
    assert re.search(r"^cna_lens_watch_requests_total{.*} 100.0$", text, re.MULTILINE)
    assert not any(request in text for request in asked)
