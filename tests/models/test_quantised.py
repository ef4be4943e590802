"""Quantised down projections: hooks read and steer them; methods on their weights are refused."""

import pytest
import reference
import tiny
import torch
from quantised_linear import (
    Float8Linear,
    IntegerLinear,
    PackedLinear,
    RotatedLinear,
    RoundingLinear,
)

import cna_lens

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30], [40, 41]]
NEGATIVE = [[33, 34, 35], [36, 37]]
IDS = [5, 6, 7, 8]
KINDS = {
    PackedLinear: "a PackedLinear with torch.uint8 weights",
    Float8Linear: "a Float8Linear with torch.float8_e4m3fn weights",
    IntegerLinear: "a IntegerLinear",
    RotatedLinear: "a RotatedLinear with torch.float32 weights",
    RoundingLinear: "a RoundingLinear with torch.float32 weights",
}


def plain(kind):
    hf = tiny.hugging_face("llama")
    for layer in hf.model.layers:
        layer.mlp.down_proj = kind(layer.mlp.down_proj)
    return hf


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return tiny.boot(plain(kind))


def find(model, **options):
    return cna_lens.find_circuit(
        model, POSITIVE, NEGATIVE, k=6, universal=None, progress=False, **options
    )


def test_discovery_reads_the_input_of_the_quantised_layer(model, kind):
    found = find(model)
    positive, negative = (
        reference.activations(plain(kind), prompts).mean(0) for prompts in (POSITIVE, NEGATIVE)
    )
    differences = positive - negative
    assert found.layout.widths == (tiny.WIDTH, tiny.WIDTH)
    places = [found.layout.flat(neuron) for neuron in found]
    assert places == differences.abs().topk(6).indices.tolist()
    expected = differences[places].tolist()
    assert found.scores == pytest.approx(expected, rel=1e-4)


def test_steering_uses_hooks_and_changes_the_layers_input(model, kind):
    chosen = find(model)
    ids = torch.tensor([IDS])
    with torch.no_grad(), cna_lens.steer(model, chosen, 0.0) as steering:
        steered = model(ids)[0]
    hf = plain(kind)
    everywhere = slice(None)
    with reference.changed(hf, reference.scale_at(chosen, 0.0, everywhere)):
        expected = reference.logits(hf, IDS)
    assert steering.via == "hooks"
    torch.testing.assert_close(steered, expected, rtol=1e-4, atol=1e-4)
    assert (expected - reference.logits(hf, IDS)).abs().max() > 1e-2


def test_steering_and_ranking_by_weights_are_refused_with_the_reason(model, kind):
    with (
        pytest.raises(cna_lens.ModelError, match=f"layer 0 is no plain matrix .{KINDS[kind]}"),
        cna_lens.steer(model, find(model), 0.0, via="weights"),
    ):
        pass
    with pytest.raises(cna_lens.ModelError, match=f"{KINDS[kind]}; output_weighted needs"):
        find(model, rank="output_weighted")
