"""Metrics of a watch, scraped over localhost while it counts."""

import socket
import sys
from urllib.request import urlopen

import pytest
import tiny
import torch

import cna_lens
from cna_lens import Circuit, InputError, Layout, Neuron, audit

NEURONS = (Neuron(1, 3), Neuron(0, 5), Neuron(1, 0))
CIRCUIT = Circuit(NEURONS, (3.0, 2.0, 1.0), Layout((tiny.WIDTH, tiny.WIDTH)))


@pytest.fixture(scope="module")
def model():
    return tiny.bridge("llama", chat=True)


def scraped(url):
    """The value of each metric, by its name, and the text."""
    # The environments of the core do not have the extra `metrics`.
    from prometheus_client.parser import text_string_to_metric_families

    with urlopen(url, timeout=10) as reply:
        assert reply.headers["content-type"].startswith("text/plain")
        text = reply.read().decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    assert {sample.labels["model"] for sample in samples} == {"tiny-llama"}
    return {sample.name.removeprefix("cna_lens_watch_"): sample.value for sample in samples}, text


def ask(model, *prompts):
    with torch.no_grad():
        model(torch.tensor(prompts))


def test_a_scrape_gives_what_was_counted(model):
    with audit.watch(model, CIRCUIT) as first:
        ask(model, [5, 6, 7], [8, 9, 3])
    reference = first.histograms
    with (
        audit.watch(model, CIRCUIT, reference, false_alarm_rate=0.01) as watched,
        audit.serve_metrics(watched, 0) as url,
    ):
        assert url.startswith("http://127.0.0.1:")
        found, _ = scraped(url)
        assert found == {
            "requests_total": 0,
            "tokens_total": 0,
            "reference_requests": 2,
            "evidence": pytest.approx(1 / 3),
            "evidence_alarm": 100,
            "alarm": 0,
        }
        ask(model, [5, 6, 7, 8])
        found, text = scraped(url)
        assert (found["requests_total"], found["tokens_total"]) == (1, 4)
        assert found["evidence"] == pytest.approx(watched.evidence)
        assert "# TYPE cna_lens_watch_requests_total counter" in text
        assert "# TYPE cna_lens_watch_alarm gauge" in text
    with pytest.raises(OSError, match=r"refused|closed"):
        urlopen(url, timeout=10)


def test_an_alarm_is_scraped_as_1(model):
    with audit.watch(model, CIRCUIT) as usual:
        for token in range(3, 60):
            ask(model, [token, token + 1])
    with (
        cna_lens.steer(model, CIRCUIT, 0.0, via="hooks"),
        audit.watch(model, CIRCUIT, usual.histograms, on_alarm=lambda _: None) as watched,
        audit.serve_metrics(watched, 0) as url,
    ):
        for token in range(3, 60):
            ask(model, [token, token + 1])
        found, _ = scraped(url)
    assert watched.alarm is not None
    assert (found["alarm"], found["requests_total"]) == (1, 57)
    assert found["evidence"] > found["evidence_alarm"] == pytest.approx(1000)


def test_tokens_are_counted_without_padding_and_with_answers(model):
    with audit.watch(model, CIRCUIT) as watched, torch.no_grad():
        mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
        model(torch.tensor([[5, 6, 7], [0, 8, 9]]), attention_mask=mask)
    assert (watched.n_requests, watched.n_tokens) == (2, 5)
    embedded = []
    words = model.original_model.get_input_embeddings()
    hook = words.register_forward_hook(lambda _, inputs, __: embedded.append(inputs[0].numel()))
    with audit.watch(model, CIRCUIT) as watched:
        cna_lens.generate(model, [[5, 6, 7, 8]], max_new_tokens=3)
    hook.remove()
    assert len(embedded) > 1
    assert watched.n_tokens == sum(embedded) > 4


def test_a_port_that_is_taken_is_named(model):
    with audit.watch(model, CIRCUIT) as watched, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(InputError, match=f"port {port}: .*give another port"),
            audit.serve_metrics(watched, port),
        ):
            pass


def test_without_the_package_the_error_names_the_extra(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with (
        audit.watch(model, CIRCUIT) as watched,
        pytest.raises(InputError, match=r"pip install 'cna-lens\[metrics\]'"),
        audit.serve_metrics(watched, 0),
    ):
        pass
