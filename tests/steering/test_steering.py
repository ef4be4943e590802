import pytest
import reference
import tiny
import torch
from steered import IDS, LAYOUT, logits

import cna_lens
from cna_lens import Circuit, Neuron

VIA = ("hooks", "weights")


def circuit(*neurons):
    return Circuit(tuple(Neuron(*n) for n in neurons), (1.0,) * len(neurons), LAYOUT)


# Not in the order of the layers, as circuits are.
CIRCUIT = circuit((1, 3), (0, 2), (1, 20), (0, 23), (1, 0))


def plain(model, factors):
    """The logits of a plain copy whose neurons' outgoing weights are multiplied."""
    hf = tiny.hugging_face(model.cfg.model_name.removeprefix("tiny-"))
    return reference.logits(reference.scaled(hf, factors), IDS)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("via", VIA)
@pytest.mark.parametrize("multiplier", [0.0, 2.0, 0.5, -1.5])
def test_multiplying_activations_is_multiplying_outgoing_weights(llama, multiplier, via):
    before = logits(llama)
    with cna_lens.steer(llama, CIRCUIT, multiplier, via=via):
        steered = logits(llama)
    assert_same(steered, plain(llama, dict.fromkeys(CIRCUIT, multiplier)))
    assert (steered - before).abs().max() > 1e-3
    assert torch.equal(logits(llama), before)


@pytest.mark.parametrize("via", VIA)
def test_a_multiplier_of_one_changes_no_bit(model, via):
    before = logits(model)
    with cna_lens.steer(model, CIRCUIT, 1.0, via=via):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize("outer", VIA)
@pytest.mark.parametrize("inner", VIA)
def test_nested_multipliers_multiply(llama, outer, inner):
    here, there = circuit((1, 3), (0, 2)), circuit((0, 2), (1, 9))
    with cna_lens.steer(llama, here, 1.5, via=outer):
        with cna_lens.steer(llama, there, -0.5, via=inner):
            both = logits(llama)
        only_outer = logits(llama)
    assert_same(both, plain(llama, {(1, 3): 1.5, (0, 2): -0.75, (1, 9): -0.5}))
    assert_same(only_outer, plain(llama, {(1, 3): 1.5, (0, 2): 1.5}))
    assert_same(logits(llama), plain(llama, {}))


def test_the_hooks_of_scale_do_what_steer_does(model):
    with cna_lens.steer(model, CIRCUIT, 0.25, via="hooks"):
        steered = logits(model)
    with model.hooks(fwd_hooks=cna_lens.scale(CIRCUIT, 0.25)):
        assert torch.equal(logits(model), steered)


@pytest.mark.parametrize("via", VIA)
def test_two_models_at_once_do_not_interfere(via):
    one, other = tiny.bridge("llama"), tiny.bridge("llama", seed=1)
    before = logits(one), logits(other)
    with cna_lens.steer(one, CIRCUIT, 0.0, via=via):
        assert torch.equal(logits(other), before[1])
        with cna_lens.steer(other, CIRCUIT, 3.0, via=via):
            both = logits(one), logits(other)
        assert_same(both[0], plain(one, dict.fromkeys(CIRCUIT, 0.0)))
        expected = reference.scaled(tiny.hugging_face("llama", 1), dict.fromkeys(CIRCUIT, 3.0))
        assert_same(both[1], reference.logits(expected, IDS))
    assert torch.equal(logits(one), before[0])
    assert torch.equal(logits(other), before[1])


@pytest.mark.parametrize("change", ["scale", "set"])
def test_an_earlier_hook_keeps_the_activations_it_has_seen(llama, change):
    seen = []
    hooks = (
        cna_lens.scale(CIRCUIT, 0.0)
        if change == "scale"
        else cna_lens.set_to(CIRCUIT, [9.0] * len(CIRCUIT))
    )
    note = [("blocks.0.mlp.hook_post", lambda activation, hook: seen.append(activation))]
    with llama.hooks(fwd_hooks=note):
        logits(llama)
        with llama.hooks(fwd_hooks=hooks):
            logits(llama)
    assert torch.equal(seen[0], seen[1])
    assert seen[0][..., 2].abs().min() > 0


def test_a_later_hook_sees_the_steered_activations(llama):
    seen = []
    note = [("blocks.0.mlp.hook_post", lambda activation, hook: seen.append(activation))]
    with cna_lens.steer(llama, CIRCUIT, 0.0, via="hooks"), llama.hooks(fwd_hooks=note):
        logits(llama)
    assert (seen[0][..., [2, 23]] == 0).all()
    assert (seen[0][..., 0] != 0).all()


@pytest.mark.parametrize("via", VIA)
@pytest.mark.parametrize("generator", ["bridge", "hugging face", "cna_lens"])
def test_steering_holds_under_any_code_that_generates(model, generator, via):
    hf = tiny.hugging_face(model.cfg.model_name.removeprefix("tiny-"))
    expected = reference.greedy(reference.scaled(hf, dict.fromkeys(CIRCUIT, 4.0)), IDS, 8)
    ids = torch.tensor([IDS])
    with cna_lens.steer(model, CIRCUIT, 4.0, via=via):
        if generator == "bridge":
            answer = model.generate(
                ids, max_new_tokens=8, do_sample=False, verbose=False, return_type="tokens"
            )[0, len(IDS) :]
        elif generator == "hugging face":
            answer = model.original_model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
            )[0, len(IDS) :]
        else:
            assert cna_lens.generate(model, [IDS], max_new_tokens=8) == [
                model.tokenizer.decode(expected, skip_special_tokens=True)
            ]
            return
    assert [token for token in answer.tolist() if token not in (0, 2)] == expected


@pytest.mark.parametrize(
    ("options", "via"),
    [
        ({}, "weights"),
        ({"via": "hooks"}, "hooks"),
        ({"positions": "prompt"}, "hooks"),
        ({"via": "weights"}, "weights"),
    ],
)
def test_the_context_says_what_it_does(llama, options, via):
    with cna_lens.steer(llama, CIRCUIT, 0.5, **options) as steering:
        assert (steering.n_neurons, steering.multiplier, steering.via) == (5, 0.5, via)
        assert steering.positions == options.get("positions", "all")
    with cna_lens.steer(llama, CIRCUIT, values=[1.0] * 5) as steering:
        assert (steering.multiplier, steering.via) == (None, "hooks")


def test_a_circuit_without_neurons_changes_nothing(llama):
    before = logits(llama)
    with cna_lens.steer(llama, Circuit((), (), LAYOUT), 0.0):
        assert torch.equal(logits(llama), before)
