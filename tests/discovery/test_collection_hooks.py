import pytest
import reference
import tiny
import torch

import cna_lens

PROMPTS = [[5, 6, 7], [8, 9, 3, 4], [40, 41], [50, 5, 51]]
POST = "blocks.{}.mlp.hook_post"


@pytest.fixture
def fresh():
    return reference.settled(tiny.bridge("llama"))


def test_no_hook_is_left_after_success(model):
    before = reference.hooks(reference.settled(model))
    cna_lens.collect(model, PROMPTS)
    assert reference.hooks(model) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("layer", [0, 1])
def test_no_hook_is_left_after_an_error_in_a_users_hook(model, layer, error):
    def fail(activation, hook):
        raise error

    before = reference.hooks(reference.settled(model))
    with model.hooks(fwd_hooks=[(POST.format(layer), fail)]):
        during = reference.hooks(model)
        with pytest.raises(error):
            cna_lens.collect(model, PROMPTS)
        assert reference.hooks(model) == during
    assert reference.hooks(model) == before


@pytest.mark.parametrize("permanent", [False, True])
def test_a_users_hooks_stay_and_fire(fresh, permanent):
    seen = []
    fresh.hook_dict[POST.format(0)].add_hook(
        lambda activation, hook: seen.append(activation.shape),
        is_permanent=permanent,
    )
    before = reference.hooks(fresh)
    cna_lens.collect(fresh, PROMPTS, batch_size=2)
    assert len(seen) == 2
    assert reference.hooks(fresh) == before
    fresh(torch.tensor([[5, 6]]))
    assert len(seen) == 3


def test_activations_that_a_users_hook_changed_are_read(llama):
    plain = cna_lens.collect(llama, PROMPTS)
    with llama.hooks(fwd_hooks=[(POST.format(1), lambda activation, hook: activation + 2)]):
        shifted = cna_lens.collect(llama, PROMPTS)
    layers = shifted.layout.split(shifted.mean - plain.mean)
    torch.testing.assert_close(layers[0], torch.zeros_like(layers[0]))
    torch.testing.assert_close(layers[1], torch.full_like(layers[1], 2), rtol=1e-5, atol=1e-5)


def test_a_hook_of_torch_on_the_wrapped_model_survives(fresh):
    fired = []
    fresh.original_model.register_forward_hook(lambda *_: fired.append(True), always_call=True)
    before = reference.hooks(fresh)
    cna_lens.collect(fresh, PROMPTS, batch_size=4)
    assert fired
    assert reference.hooks(fresh) == before


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_of_torch_on_the_bridge_itself_fires(fresh, register):
    fired = []
    options = {"always_call": True} if register == "register_forward_hook" else {}
    getattr(fresh, register)(lambda *_: fired.append(True), **options)
    cna_lens.collect(fresh, PROMPTS, batch_size=4)
    assert fired


def test_reading_changes_no_weight_and_needs_no_gradient(llama):
    before = reference.weights(llama)
    stats = cna_lens.collect(llama, PROMPTS)
    assert reference.same_bits(before, reference.weights(llama))
    assert not stats.mean.requires_grad
