"""Properties that all steering methods share, and the methods that change neurons."""

from dataclasses import replace

import pytest
import reference
import runs
import tiny
import torch
from steered import IDS, LAYOUT, NEGATIVE, POSITIVE, logits, plain

import cna_lens
from cna_lens import Circuit, Neuron, Provenance, SteeringMethod

CIRCUIT = Circuit((Neuron(1, 20), Neuron(0, 2), Neuron(1, 3)), (3.0, 2.0, 1.0), LAYOUT)
VALUES = [4.0, -3.0, 2.0]
PROMPTS = [[33, 34, 35, 36, 5, 6, 7], [33, 34, 35, 36, 9], [33, 34, 35, 36, 40, 41]]

MAKERS = {
    "ablation": lambda model, **options: cna_lens.ablation(CIRCUIT, **options),
    "mean_ablation": lambda model, **options: cna_lens.mean_ablation(CIRCUIT, VALUES, **options),
    "deviation_scaling": lambda model, **options: cna_lens.deviation_scaling(
        CIRCUIT, VALUES, -1.0, **options
    ),
    "magnitude_anchor": lambda model, **options: cna_lens.magnitude_anchor(
        CIRCUIT,
        cna_lens.collect(model, POSITIVE),
        cna_lens.collect(model, NEGATIVE),
        -4.0,
        **options,
    ),
    "caa": lambda model, **options: cna_lens.caa(model, POSITIVE, NEGATIVE, **options),
    "caa of one layer": lambda model, **options: cna_lens.caa(
        model, POSITIVE, NEGATIVE, site="hook_resid_post", layer=0, **options
    ),
    "directional_ablation": lambda model, **options: cna_lens.directional_ablation(
        model, POSITIVE, NEGATIVE, layer=1, **options
    ),
    "random direction": lambda model, **options: cna_lens.random_direction(
        cna_lens.directional_ablation(model, POSITIVE, NEGATIVE, layer=1, **options)
    ),
    "sae": lambda model, **options: cna_lens.FeatureScaling(
        cna_lens.sae_features(model, tiny.autoencoder(), POSITIVE, NEGATIVE, k=4), -2.0, **options
    ),
    "random circuit": lambda model, **options: cna_lens.ablation(
        cna_lens.matched_random(CIRCUIT), **options
    ),
}
methods = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
SCOPES = ("all", "prompt", "last_prompt", "from_last_prompt", "generated")


@methods
def test_strength_zero_changes_no_bit_and_registers_nothing(model, make):
    before = logits(model)
    method = make(model)
    hooks = reference.hooks(reference.settled(model))
    with method.at(model, 0.0) as applied:
        assert torch.equal(logits(model), before)
        assert reference.hooks(model) == hooks
    assert (applied.method, applied.strength, applied.via) == (method.name, 0.0, "nothing")
    assert applied.hook_points == ()


@methods
def test_little_strength_changes_little_and_nothing_is_left_behind(model, make):
    before, weights = logits(model), reference.weights(model)
    method = make(model)
    hooks = reference.hooks(reference.settled(model))
    changes = []
    for strength in (0.01, 0.2, 1.0):
        with method.at(model, strength) as applied:
            changes.append(float((logits(model) - before).abs().max()))
        assert applied.via in ("hooks", "weights")
        assert applied.hook_points
    assert 0 < changes[0] < min(changes[1:]) / 2
    assert reference.hooks(model) == hooks
    assert reference.same_bits(weights, reference.weights(model))


@methods
def test_nothing_is_left_behind_after_an_exception(llama, make):
    method = make(llama)
    hooks = reference.hooks(reference.settled(llama))
    for positions in ("all", "last_prompt"):
        method = make(llama, positions=positions)
        with pytest.raises(KeyError), method.at(llama):
            raise KeyError
        assert reference.hooks(llama) == hooks


@methods
def test_it_is_a_steering_method(llama, make):
    method = make(llama)
    assert isinstance(method, SteeringMethod)
    with pytest.raises(AttributeError):
        method.name = "another"


@pytest.mark.usefixtures("without_type_checks")
@methods
@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), "1"])
def test_a_strength_outside_0_to_1_is_refused(llama, make, strength):
    method = make(llama)
    with (
        pytest.raises(cna_lens.InputError, match=r"strength is .*, expected 0 \(nothing\) to 1"),
        method.at(llama, strength),
    ):
        pass


@pytest.mark.usefixtures("without_type_checks")
@methods
def test_another_model_is_refused(llama, models, make):
    method = make(llama)
    if hasattr(method, "circuit"):
        other = Circuit(CIRCUIT.neurons, CIRCUIT.scores, LAYOUT, Provenance(model="tiny-llama"))
        object.__setattr__(method, "circuit", other)
    for strength in (0.0, 1.0):
        with (
            pytest.raises(
                (cna_lens.CircuitMismatchError, cna_lens.VectorMismatchError),
                match=r"found on tiny-llama, this model is tiny-gpt2.*allow_other_model=True",
            ),
            method.at(models["gpt2"], strength),
        ):
            pass
        with pytest.raises(cna_lens.ModelError, match="not a TransformerLens model"):
            method.at(tiny.hugging_face("llama"), strength).__enter__()


@methods
def test_another_model_can_be_allowed(llama, models, make):
    method = replace(make(llama), allow_other_model=True)
    gpt2 = models["gpt2"]
    before = logits(gpt2)
    with method.at(gpt2):
        assert not torch.equal(logits(gpt2), before)


@methods
@pytest.mark.parametrize("positions", runs.every(SCOPES, quick=("all", "from_last_prompt")))
def test_batched_generation_is_that_of_one_prompt_at_a_time(llama, make, positions):
    with make(llama, positions=positions).at(llama):
        batched = cna_lens.generate(llama, PROMPTS, max_new_tokens=8)
        alone = [
            cna_lens.generate(llama, [prompt], max_new_tokens=8, share_prefix=False)[0]
            for prompt in PROMPTS
        ]
    assert batched == alone


@methods
def test_the_last_prompt_token_alone_leaves_those_before_it(model, make):
    before = logits(model)
    with make(model, positions="last_prompt").at(model):
        steered = logits(model)
    assert torch.equal(steered[:-1], before[:-1])
    assert (steered[-1] - before[-1]).abs().max() > 1e-4


@methods
def test_a_model_in_half_precision_stays_in_it(make):
    model = tiny.bridge("llama", dtype=torch.bfloat16)
    before = logits(model)
    with make(model).at(model, 0.7):
        steered = logits(model)
    assert steered.dtype == torch.bfloat16
    assert not torch.equal(steered, before)
    assert torch.isfinite(steered).all()


@pytest.mark.parametrize("via", ["hooks", "weights"])
@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_ablation_multiplies_with_one_minus_the_strength(model, via, strength):
    factors = dict.fromkeys(CIRCUIT, 1 - strength)
    expected = reference.logits(reference.scaled(plain(model), factors), IDS)
    with cna_lens.ablation(CIRCUIT, via=via).at(model, strength) as applied:
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    assert applied.via == via
    assert set(applied.hook_points) == {"blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"}


def test_amplification_reaches_its_multiplier_at_strength_one(model):
    for strength, multiplier in ((0.5, 2.0), (1.0, 3.0)):
        expected = reference.scaled(plain(model), dict.fromkeys(CIRCUIT, multiplier))
        method = cna_lens.NeuronScaling(CIRCUIT, 3.0, name="amplification")
        with method.at(model, strength):
            torch.testing.assert_close(
                logits(model), reference.logits(expected, IDS), rtol=0, atol=2e-5
            )


def pull(strength):
    values = dict(zip(CIRCUIT, VALUES, strict=True))

    def change(layer, activation):
        activation = activation.clone()
        for (at, index), value in values.items():
            if at == layer:
                old = activation[..., index]
                activation[..., index] = old + strength * (value - old)
        return activation

    return change


@pytest.mark.parametrize("strength", [0.25, 0.75, 1.0])
def test_mean_ablation_moves_activations_towards_the_values(model, strength):
    hf = plain(model)
    with reference.changed(hf, pull(strength)):
        expected = hf(torch.tensor([IDS])).logits[0]
    with cna_lens.mean_ablation(CIRCUIT, VALUES).at(model, strength):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)


def test_mean_ablation_at_strength_one_sets_the_very_values(llama):
    with cna_lens.steer(llama, CIRCUIT, values=VALUES):
        expected = logits(llama)
    with cna_lens.mean_ablation(CIRCUIT, VALUES).at(llama):
        assert torch.equal(logits(llama), expected)


@pytest.mark.parametrize("multiplier", [-1.5, 0.0, 0.5, 3.0])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_deviation_scaling_multiplies_the_distance_from_the_values(model, multiplier, strength):
    def change(layer, activation):
        activation = activation.clone()
        for (at, index), value in zip(CIRCUIT, VALUES, strict=True):
            if at == layer:
                distance = activation[..., index] - value
                change = strength * multiplier + (1 - strength)
                activation[..., index] = value + change * distance
        return activation

    hf = plain(model)
    with reference.changed(hf, change):
        expected = hf(torch.tensor([IDS])).logits[0]
    with cna_lens.deviation_scaling(CIRCUIT, VALUES, multiplier).at(model, strength):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4)


def test_deviation_scaling_by_one_changes_nothing_and_by_nan_is_refused(llama):
    before = logits(llama)
    with cna_lens.deviation_scaling(CIRCUIT, VALUES, 1.0).at(llama):
        assert torch.equal(logits(llama), before)
    with pytest.raises(cna_lens.InputError, match="nan"):
        cna_lens.deviation_scaling(CIRCUIT, VALUES, float("nan"))


def test_mean_ablation_takes_the_means_of_statistics(llama):
    stats = cna_lens.collect(llama, NEGATIVE)
    method = cna_lens.mean_ablation(CIRCUIT, stats)
    assert method.values == tuple(float(stats.mean[LAYOUT.flat(neuron)]) for neuron in CIRCUIT)


@pytest.mark.parametrize("name", ["mean_ablation", "deviation_scaling", "magnitude_anchor"])
def test_values_for_neurons_whose_weights_an_outer_context_scales_are_refused(llama, name):
    method = MAKERS[name](llama)
    with (
        cna_lens.ablation(CIRCUIT, via="weights").at(llama, 0.5),
        pytest.raises(cna_lens.InputError, match="via='hooks'"),
        method.at(llama, 0.5),
    ):
        pass


def test_methods_nest(llama):
    hf = plain(llama)
    caa = cna_lens.caa(llama, POSITIVE, NEGATIVE, coefficient=2.0)
    vectors = dict(caa.vectors.items())

    def subtract(layer, site, tensor):
        return tensor - 2.0 * vectors[layer].float() if site == "mlp_out" else tensor

    reference.scaled(hf, dict.fromkeys(CIRCUIT, 0.0))
    with reference.residual_changed(hf, subtract):
        expected = hf(torch.tensor([IDS])).logits[0]
    for via in ("hooks", "weights"):
        with cna_lens.ablation(CIRCUIT, via=via).at(llama), caa.at(llama):
            torch.testing.assert_close(logits(llama), expected, rtol=0, atol=1e-5)
        with caa.at(llama), cna_lens.ablation(CIRCUIT, via=via).at(llama):
            torch.testing.assert_close(logits(llama), expected, rtol=0, atol=1e-5)
