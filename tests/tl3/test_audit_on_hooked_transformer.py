"""The audit of a HookedTransformer, which TransformerLens 3.9 still has."""

import pytest
import torch
from canary_models import CANARIES

import cna_lens
from cna_lens import audit
from cna_lens.audit.watching.histograms import binned


@pytest.fixture(scope="module")
def hooked(hooked_transformer):
    return hooked_transformer(chat=True, d_mlp=64)


@pytest.fixture(scope="module")
def circuit(hooked):
    return cna_lens.find_circuit(
        hooked, CANARIES.harmful, CANARIES.benign, k=6, universal=None, progress=False
    )


@pytest.fixture(scope="module")
def fingerprint(hooked, circuit):
    return audit.fingerprint(hooked, circuit, CANARIES, rankings=("contrast",), progress=False)


def statistics(found):
    return {check.name: check.statistic for check in found.checks}


def test_matrices_explain_what_mlps_write(fingerprint):
    assert all(fingerprint.reference.explained)
    assert all(fingerprint.reference.summed)


def test_the_same_model_has_only_statistics_of_0(hooked, fingerprint):
    found = audit.attest(hooked, fingerprint, CANARIES)
    assert found.score == pytest.approx(0, abs=1e-4)
    assert not found.tensors
    assert not found.hooks


@pytest.mark.parametrize(("via", "check"), [("hooks", "neurons"), ("weights", "weights")])
def test_scaled_neurons_are_listed_with_their_gain(hooked, circuit, fingerprint, via, check):
    first = {neuron for neuron in circuit if neuron.layer == 0}
    with cna_lens.steer(hooked, circuit, 0.5, via=via):
        found = audit.attest(hooked, fingerprint, CANARIES)
    (listed,) = (each.neurons for each in found.checks if each.name == check)
    assert {n: g for n, g in listed if n in first} == {
        n: pytest.approx(0.5, abs=1e-3) for n in first
    }
    assert statistics(found)[check] > 0.2


def test_an_added_vector_has_its_coefficient(hooked, fingerprint):
    with cna_lens.caa(hooked, CANARIES.harmful, CANARIES.benign).at(hooked, 0.5):
        found = audit.attest(hooked, fingerprint, CANARIES, access="activations")
    assert statistics(found)["shift"] == pytest.approx(0.5, rel=1e-3)


def test_a_watch_counts_requests_and_detects_a_steered_circuit(hooked, circuit):
    requests = [[3 + i % 7, 11 + i % 13, 30 + i % 5] for i in range(200)]
    with audit.watch(hooked, circuit) as usual:
        for request in requests:
            hooked(torch.tensor([request]))
    assert usual.alarm is None
    expected = cna_lens.token_activations(hooked, list(circuit), requests[:1]).values[0][-1]
    with audit.watch(hooked, circuit) as one:
        hooked(torch.tensor(requests[:1]))
    assert one.histograms.counts.argmax(1).tolist() == binned(expected).tolist()
    with (
        cna_lens.steer(hooked, circuit, 0.0, via="hooks"),
        audit.watch(hooked, circuit, usual.histograms, on_alarm=lambda _: None) as later,
    ):
        for request in requests:
            hooked(torch.tensor([request]))
    assert later.alarm is not None
    assert audit.hooks(hooked) == ()
