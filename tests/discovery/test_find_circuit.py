import pytest
import reference
import strategies
import tiny
import torch
from hypothesis import given, settings, strategies as st

import cna_lens

POSITIVE = [[5, 6, 7], [8, 9, 3, 4, 30, 31, 32], [40, 41], [50, 5, 51, 6, 52]]
NEGATIVE = [[33, 34, 35], [36, 37], [38, 39, 40, 41, 42, 43]]


def find(model, positive=POSITIVE, negative=NEGATIVE, **options):
    options = {"universal": None, "progress": False, "chat": False} | options
    return cna_lens.find_circuit(model, positive, negative, **options)


@settings(max_examples=20, deadline=None)
@given(
    strategies.families,
    strategies.prompt_sets(),
    strategies.prompt_sets(),
    st.integers(1, 2 * tiny.WIDTH),
    st.sampled_from([-1, 0]),
)
@pytest.mark.filterwarnings("ignore::cna_lens.CnaLensWarning")
def test_the_circuit_is_the_top_of_the_differences_of_means(
    models, family, positive, negative, k, position
):
    hf = tiny.hugging_face(family)
    differences = reference.activations(hf, positive, position).mean(0)
    differences -= reference.activations(hf, negative, position).mean(0)
    circuit = find(models[family], positive, negative, k=k, position=position)
    assert len(set(circuit)) == k
    found = [layer * tiny.WIDTH + index for layer, index in circuit]
    noise = 1e-5 * float(
        torch.cat([reference.activations(hf, [ids], position) for ids in positive + negative])
        .abs()
        .max()
    )
    torch.testing.assert_close(
        torch.tensor(circuit.scores, dtype=torch.float64), differences[found], rtol=0, atol=noise
    )
    # Neurons closer to each other than the rounding may change places.
    left_out = differences.abs().clone()
    left_out[found] = 0
    assert left_out.max() <= differences[found].abs().min() + 2 * noise


def test_swapping_the_sets_negates_every_score(model):
    there = find(model, k=10)
    back = find(model, NEGATIVE, POSITIVE, k=10)
    assert there.neurons == back.neurons
    assert there.scores == pytest.approx([-score for score in back.scores], rel=1e-4)


@pytest.mark.parametrize("sign", ["positive", "negative"])
def test_one_sign_only(llama, sign):
    everything = find(llama, k=2 * tiny.WIDTH)
    wanted = [
        neuron
        for neuron, score in zip(everything, everything.scores, strict=True)
        if (score > 0) == (sign == "positive")
    ]
    assert list(find(llama, k=len(wanted), sign=sign)) == wanted


def test_neurons_of_some_layers_only(llama):
    everything = find(llama, k=2 * tiny.WIDTH)
    wanted = [neuron for neuron in everything if neuron.layer == 1][:5]
    circuit = find(llama, k=5, layers=[1])
    assert list(circuit) == wanted
    assert circuit.provenance.layers == (1,)


def test_without_a_size_the_circuit_is_a_thousandth_of_all_neurons_and_at_least_one(llama):
    circuit = find(llama)
    assert len(circuit) == 1
    assert circuit.provenance.fraction == 0.001
    assert len(find(llama, fraction=0.25)) == 12


def test_prompts_in_another_order_give_the_same_circuit(model):
    circuit = find(model, k=8)
    assert find(model, POSITIVE[::-1], NEGATIVE[::-1], k=8, batch_size=1).neurons == circuit.neurons


def test_the_provenance_says_how_the_circuit_was_found(llama):
    circuit = find(llama, k=2, position=-2, hash_weights=True)
    provenance = circuit.provenance
    assert provenance.model == "tiny-llama"
    assert (provenance.position, provenance.rank, provenance.sign) == (-2, "contrast", "abs")
    assert (provenance.k, provenance.fraction) == (2, None)
    assert (provenance.positive.count, provenance.negative.count) == (4, 3)
    assert provenance.weights_sha256 == cna_lens.weights_hash(tiny.hugging_face("llama"))
    assert provenance.universal is None
    assert provenance.template_sha256 is None


def test_a_tokenizer_without_padding_gives_the_same_circuit():
    texts = [["w5 w6 w7", "w8 w9"], ["w30", "w31 w32 w33 w34"]]
    with_padding = find(tiny.bridge("llama"), *texts, k=6)
    model = tiny.bridge("llama")
    model.tokenizer.pad_token = None
    assert find(model, *texts, k=6) == with_padding
