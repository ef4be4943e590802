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
from cna_lens.models.inside import projections
from cna_lens.models.inside.projections import DownProjection

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


class _OwnLinear(torch.nn.Linear):
    """Counts its calls, and multiplies its output by a factor."""

    calls = 0
    factor = 1.0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.factor


def of_own_linear(dtype=torch.float32, factor=1.0):
    torch.manual_seed(0)
    layer = _OwnLinear(512, 64, dtype=dtype)
    layer.factor = factor
    return layer, DownProjection(layer.weight, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_layers_own_forward_pass_is_tried_in_every_precision_and_once(dtype):
    layer, projection = of_own_linear(dtype)
    assert projections._only_multiplies(layer, projection)
    assert projections._only_multiplies(layer, projection)
    assert layer.calls == 1
    layer, projection = of_own_linear(dtype, 1.05)
    assert not projections._only_multiplies(layer, projection)


def test_another_forward_pass_or_other_weights_are_tried_anew():
    layer, projection = of_own_linear()
    assert projections._only_multiplies(layer, projection)
    layer.forward = lambda x: torch.zeros(len(x), 64)
    assert not projections._only_multiplies(layer, projection)
    layer, projection = of_own_linear()
    assert projections._only_multiplies(layer, projection)
    layer.weight, layer.factor = torch.nn.Parameter(layer.weight.detach().clone()), 1.05
    assert not projections._only_multiplies(layer, DownProjection(layer.weight, 1))


def test_a_layer_without_numbers_is_not_called():
    layer, _ = of_own_linear()
    layer.weight = torch.nn.Parameter(torch.zeros(1).expand(64, 512))
    assert projections._only_multiplies(layer, DownProjection(layer.weight, 1))
    assert layer.calls == 0
