import pytest
import reference
import tiny
import torch

import cna_lens
from cna_lens import Circuit, Layout, Neuron, Provenance

pytestmark = pytest.mark.usefixtures("without_type_checks")

LAYOUT = Layout((tiny.WIDTH, tiny.WIDTH))
IDS = torch.tensor([[5, 6, 7]])


def circuit(layout=LAYOUT, **provenance):
    return Circuit((Neuron(0, 2), Neuron(1, 3)), (2.0, 1.0), layout, Provenance(**provenance))


def enter(model, circuit, *args, **options):
    with cna_lens.steer(model, circuit, *args, **options) as steering:
        model(IDS)
    return steering


@pytest.mark.parametrize("multiplier", [float("nan"), float("inf"), -float("inf"), "a"])
def test_a_multiplier_that_is_not_finite_is_refused(llama, multiplier):
    with pytest.raises(cna_lens.InputError, match="expected a finite number"):
        enter(llama, circuit(), multiplier)
    with pytest.raises(cna_lens.InputError, match="expected a finite number"):
        cna_lens.scale(circuit(), multiplier)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, cna_lens.InputError, "either multiplier or values"),
        (
            {"multiplier": 0.0, "values": [1.0, 2.0]},
            cna_lens.InputError,
            "either multiplier or values",
        ),
        (
            {"multiplier": 0.0, "via": "magic"},
            cna_lens.InputError,
            "via is 'magic', expected one of auto, hooks, weights",
        ),
        (
            {"multiplier": 0.0, "positions": "answer"},
            cna_lens.InputError,
            "positions is 'answer', expected one of all, prompt, last_prompt",
        ),
        (
            {"multiplier": 0.0, "via": "weights", "positions": "prompt"},
            cna_lens.ModelError,
            "positions='prompt'; use via='hooks'",
        ),
        (
            {"values": [1.0, 2.0], "via": "weights"},
            cna_lens.ModelError,
            "not set them; use via='hooks'",
        ),
    ],
)
def test_invalid_arguments_are_refused(llama, options, error, message):
    before = reference.hooks(reference.settled(llama)), reference.weights(llama)
    with pytest.raises(error, match=message):
        enter(llama, circuit(), **options)
    assert reference.hooks(llama) == before[0]
    assert reference.same_bits(before[1], reference.weights(llama))


@pytest.mark.parametrize("via", ["hooks", "weights", "auto"])
@pytest.mark.parametrize(
    ("of", "message"),
    [
        (circuit(Layout((24, 24, 24))), "a model with 3 layers, tiny-llama has 2"),
        (circuit(Layout((24, 32))), "32 neurons in layer 1, tiny-llama has 24"),
        (circuit(model="tiny-gpt2"), "found on tiny-gpt2, this model is tiny-llama.*allow_other"),
    ],
    ids=["layers", "width", "name"],
)
def test_a_circuit_of_another_model_is_refused(llama, of, message, via):
    with pytest.raises(cna_lens.CircuitMismatchError, match=message):
        enter(llama, of, 0.0, via=via)


def test_a_circuit_of_a_model_of_another_name_can_be_allowed(llama):
    assert enter(llama, circuit(model="tiny-gpt2"), 0.0, allow_other_model=True).n_neurons == 2
    assert enter(llama, circuit(model="tiny-llama"), 0.0).n_neurons == 2
    assert enter(llama, circuit(model=None), 0.0).n_neurons == 2


def test_another_shape_is_refused_even_if_another_name_is_allowed(llama):
    with pytest.raises(cna_lens.CircuitMismatchError, match="32 neurons"):
        enter(llama, circuit(Layout((24, 32)), model="x"), 0.0, allow_other_model=True)


def test_hooks_of_a_circuit_of_another_width_refuse_to_run(llama):
    for hooks in (
        cna_lens.scale(circuit(Layout((24, 32))), 0.0),
        cna_lens.set_to(circuit(Layout((24, 32))), [1.0, 2.0]),
    ):
        with (
            pytest.raises(cna_lens.CircuitMismatchError, match=r"holds 24 values.*32 neurons"),
            llama.hooks(fwd_hooks=hooks),
        ):
            llama(IDS)


def test_other_weights_of_the_same_model_are_warned_about(llama):
    of = circuit(model="tiny-llama", weights_sha256="0" * 64)
    with pytest.warns(cna_lens.CnaLensWarning, match="other weights of tiny-llama"):
        enter(llama, of, 0.0)


def test_neither_the_same_weights_nor_an_outer_context_cause_a_warning(llama):
    of = circuit(model="tiny-llama", weights_sha256=cna_lens.weights_hash(llama))
    enter(llama, of, 0.0)
    with cna_lens.steer(llama, of, 0.0, via="weights"):
        enter(llama, of, 2.0)


def shared():
    model = tiny.bridge("llama")
    first, second = (model.blocks[layer].mlp.out.original_component for layer in (0, 1))
    second.weight = first.weight
    return model


def frozen_into_a_tensor():
    model = tiny.bridge("llama")
    linear = model.blocks[1].mlp.out.original_component
    weight = linear.weight.detach()
    del linear.weight
    linear.weight = weight
    return model


@pytest.mark.parametrize(
    ("make", "obstacle"),
    [(shared, "shared with another module"), (frozen_into_a_tensor, "layer 1 is parametrised")],
)
def test_hooks_steer_where_weights_cannot_be_scaled(make, obstacle):
    model = make()
    with pytest.raises(cna_lens.ModelError, match=obstacle):
        enter(model, circuit(), 0.0, via="weights")
    assert enter(model, circuit(), 0.0).via == "hooks"


def test_a_plain_hugging_face_model_cannot_be_steered():
    with pytest.raises(cna_lens.ModelError, match="not a TransformerLens model"):
        enter(tiny.hugging_face("llama"), circuit(), 0.0)
