from dataclasses import replace
from statistics import mean

import pytest
import reference
import torch
from steered import IDS, LAYOUT, NEGATIVE, POSITIVE, logits, plain

import cna_lens
from cna_lens import ControlVectors, VectorAddition
from cna_lens.metrics import refusal_log_odds
from cna_lens.steering.edits import AddVector, EraseDirection, Scale
from cna_lens.steering.scaling import hooked

SITES = ("hook_mlp_out", "hook_resid_pre", "hook_resid_post")
PLACES = {
    "all": slice(None),
    "prompt": slice(0, 4),
    "last_prompt": slice(3, 4),
    "from_last_prompt": slice(3, None),
    "generated": slice(4, None),
}


def differences(model, site, position=-1):
    hf = plain(model)
    plus, minus = (
        reference.residuals(hf, prompts, site.removeprefix("hook_"), position).mean(0)
        for prompts in (POSITIVE, NEGATIVE)
    )
    return plus - minus


def shifted(hf, site, vectors, places=slice(None)):
    """The logits of a plain model with a vector added at a site of some layers."""

    def change(layer, at, tensor):
        if at != site.removeprefix("hook_") or layer not in vectors:
            return tensor
        tensor = tensor.clone()
        tensor[:, places] += vectors[layer].to(tensor)
        return tensor

    with reference.residual_changed(hf, change):
        return hf(torch.tensor([IDS])).logits[0]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("position", [-1, 0, -2])
@pytest.mark.parametrize("site", SITES)
def test_vectors_are_the_differences_of_means_computed_one_prompt_at_a_time(model, site, position):
    vectors = cna_lens.difference_of_means(model, POSITIVE, NEGATIVE, site=site, position=position)
    assert vectors.layers == (0, 1)
    torch.testing.assert_close(
        vectors.vectors, differences(model, site, position), rtol=1e-5, atol=1e-5
    )


def test_vectors_know_where_they_came_from(llama):
    vectors = cna_lens.difference_of_means(
        llama, POSITIVE, NEGATIVE, site="hook_resid_post", position=-2
    )
    assert vectors.model == "tiny-llama"
    assert (vectors.positive.prompts.count, vectors.positive.position) == (3, -2)
    assert vectors.positive.site == vectors.negative.site == "hook_resid_post"
    assert vectors.positive.prompts.sha256 != vectors.negative.prompts.sha256


@pytest.mark.parametrize(("sign", "factor"), [("subtract", -1), ("add", 1)])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_papers_variant_adds_at_every_mlp_output(model, sign, factor, strength):
    vectors = differences(model, "hook_mlp_out") * factor * strength * 1.5
    expected = shifted(plain(model), "hook_mlp_out", dict(enumerate(vectors)))
    method = cna_lens.caa(model, POSITIVE, NEGATIVE, sign=sign, coefficient=1.5)
    with method.at(model, strength) as applied:
        assert_same(logits(model), expected)
    assert applied.hook_points == ("blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out")


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_post"])
def test_the_original_adds_at_one_layer_of_the_residual_stream(model, site, layer):
    vector = -differences(model, site)[layer]
    expected = shifted(plain(model), site, {layer: vector})
    method = cna_lens.caa(model, POSITIVE, NEGATIVE, site=site, layer=layer)
    with method.at(model) as applied:
        assert_same(logits(model), expected)
    assert applied.hook_points == (f"blocks.{layer}.{site}",)


@pytest.mark.parametrize("positions", PLACES)
def test_vectors_are_added_at_the_steered_positions_only(llama, positions):
    vectors = -differences(llama, "hook_mlp_out")
    expected = shifted(plain(llama), "hook_mlp_out", dict(enumerate(vectors)), PLACES[positions])
    method = cna_lens.caa(llama, POSITIVE, NEGATIVE, positions=positions)
    with method.at(llama), cna_lens.prompt_lengths([4]):
        assert_same(logits(llama), expected)


def test_answers_are_those_of_a_model_hooked_by_hand(model):
    vectors = dict(enumerate(-4 * differences(model, "hook_mlp_out")))
    hf = plain(model)

    def change(layer, site, tensor):
        return tensor + vectors[layer].to(tensor) if site == "mlp_out" else tensor

    with reference.residual_changed(hf, change):
        tokens = reference.greedy(hf, IDS, 6)
    expected = model.tokenizer.decode(tokens, skip_special_tokens=True)
    unsteered = cna_lens.generate(model, [IDS], max_new_tokens=6)
    with cna_lens.caa(model, POSITIVE, NEGATIVE, coefficient=4.0).at(model):
        steered = cna_lens.generate(model, [IDS], max_new_tokens=6)
    assert steered == [expected]
    assert steered != unsteered


def test_a_zero_vector_registers_nothing(llama):
    before = logits(llama)
    hooks = reference.hooks(reference.settled(llama))
    nothing = ControlVectors("hook_mlp_out", (0, 1), torch.zeros(2, 16).double(), 2)
    for method in (
        VectorAddition(nothing),
        VectorAddition(nothing, positions="last_prompt"),
        cna_lens.caa(llama, POSITIVE, NEGATIVE, coefficient=0.0),
    ):
        with method.at(llama) as applied:
            assert torch.equal(logits(llama), before)
            assert reference.hooks(llama) == hooks
        assert applied.via == "nothing"


def test_an_earlier_hook_keeps_what_it_has_seen(llama):
    seen = []
    note = [("blocks.0.hook_mlp_out", lambda activation, hook: seen.append(activation))]
    method = cna_lens.caa(llama, POSITIVE, NEGATIVE)
    with llama.hooks(fwd_hooks=note):
        logits(llama)
        with method.at(llama):
            logits(llama)
    assert torch.equal(seen[0], seen[1])


def test_candidates_are_the_single_methods_of_each_layer(llama):
    candidates = cna_lens.caa_candidates(llama, POSITIVE, NEGATIVE, sign="add", coefficient=2.0)
    assert [method.name for method in candidates] == ["caa(layer=0)", "caa(layer=1)"]
    for layer, candidate in enumerate(candidates):
        single = cna_lens.caa(
            llama,
            POSITIVE,
            NEGATIVE,
            site="hook_resid_post",
            layer=layer,
            sign="add",
            coefficient=2.0,
        )
        assert torch.equal(candidate.vectors.vectors, single.vectors.vectors)
        assert (candidate.sign, candidate.coefficient) == ("add", 2.0)
    (last,) = cna_lens.caa_candidates(llama, POSITIVE, NEGATIVE, layers=[1])
    assert last.vectors.layers == (1,)


def test_random_directions_have_the_same_lengths_and_another_direction(llama):
    method = cna_lens.caa(llama, POSITIVE, NEGATIVE, coefficient=2.0)
    control, again, other = (cna_lens.random_direction(method, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(control.vectors.norms, method.vectors.norms)
    assert torch.equal(control.vectors.vectors, again.vectors.vectors)
    cosines = torch.nn.functional.cosine_similarity(control.vectors.vectors, method.vectors.vectors)
    assert cosines.abs().max() < 0.9
    assert not torch.allclose(control.vectors.vectors, other.vectors.vectors)
    assert (control.coefficient, control.sign) == (2.0, "subtract")
    assert control.vectors.positive is None
    assert control.name == "random_direction(caa, seed=0)"


def test_random_directions_are_uniform_on_the_sphere():
    vectors = ControlVectors("hook_mlp_out", tuple(range(4000)), torch.ones(4000, 3).double(), 4000)
    units = vectors.random(3).vectors / 3**0.5
    torch.testing.assert_close(units.mean(0), torch.zeros(3).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(units.T @ units / 4000, torch.eye(3).double() / 3, rtol=0, atol=0.03)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "hook_resid_post"}, "layer is None, and hook_resid_post needs one"),
        ({"layer": 2}, "layer 2 has no vector; the layers that have one are 0, 1"),
        ({"sign": "minus"}, "sign is 'minus', expected one of subtract, add"),
        ({"coefficient": float("inf")}, "coefficient is inf, expected a finite number"),
        ({"positions": "answer"}, "positions is 'answer', expected one of"),
    ],
)
def test_invalid_settings_are_refused(llama, options, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.caa(llama, POSITIVE, NEGATIVE, **options)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("layers", "vectors", "n_layers", "message"),
    [
        ((0,), torch.ones(2, 16), 2, "1 layers and vectors of shape"),
        ((), torch.ones(0, 16), 2, "0 layers"),
        ((1, 1), torch.ones(2, 16), 2, "name each layer once"),
        ((2,), torch.ones(1, 16), 2, "layer 2 does not exist: the model has layers 0 to 1"),
        ((0,), torch.full((1, 16), float("nan")), 2, "not a number"),
    ],
)
def test_invalid_vectors_are_refused(layers, vectors, n_layers, message):
    with pytest.raises(cna_lens.InputError, match=message):
        ControlVectors("hook_mlp_out", layers, vectors.double(), n_layers)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (ControlVectors("hook_mlp_out", (0,), torch.ones(1, 8).double(), 2), "8 values for each"),
        (ControlVectors("hook_mlp_out", (0,), torch.ones(1, 16).double(), 3), "3 layers"),
    ],
    ids=["width", "layers"],
)
def test_vectors_of_another_shape_are_refused(llama, vectors, message):
    for method in (
        VectorAddition(vectors, allow_other_model=True),
        cna_lens.DirectionalAblation(vectors, allow_other_model=True),
    ):
        with (
            pytest.raises(cna_lens.VectorMismatchError, match=f"{message}.*find the vectors on"),
            method.at(llama),
        ):
            pass


@pytest.mark.parametrize("change", [AddVector, EraseDirection])
def test_a_hook_point_of_another_width_than_the_vector_is_refused(change):
    with pytest.raises(cna_lens.VectorMismatchError, match="16 values for each token, the vector"):
        change(torch.ones(1).double())(torch.ones(1, 2, 16), None)


@pytest.mark.long
@pytest.mark.real_model
def test_caa_moves_refusal_both_ways_and_further_than_random_vectors_of_the_same_length(demo):
    # SmolLM2-135M-Instruct seldom refuses, so the change of the log-odds is compared.
    refusal = cna_lens.prompt_set("refusal")
    removing = cna_lens.caa(demo, refusal.positive[:8], refusal.negative[:8])
    amplifying = replace(removing, sign="add")
    for method, prompts, direction in (
        (removing, refusal.positive[22:26], -1),
        (amplifying, refusal.negative[22:26], 1),
    ):
        controls = [cna_lens.random_direction(method, seed) for seed in range(2)]
        before = mean(refusal_log_odds(demo, prompts))
        changes = []
        for steering in (method, *controls):
            with steering.at(demo):
                changes.append(mean(refusal_log_odds(demo, prompts)) - before)
        change, *by_chance = changes
        assert change * direction > 0.4
        assert abs(change) > max(map(abs, by_chance))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"site": "hook_resid_pst"}, "site is 'hook_resid_pst', expected one of hook_mlp_out"),
        ({"layers": (1.0,)}, r"layer 1\.0 is no layer; give a whole number"),
        ({"vectors": torch.ones(1).double()}, "give one row for each layer"),
    ],
)
def test_vectors_that_no_hook_would_take_are_refused(changed, message):
    vectors = ControlVectors("hook_resid_post", (1,), torch.ones(1, 16).double(), 2)
    with pytest.raises(cna_lens.InputError, match=message):
        replace(vectors, **changed)


@pytest.mark.usefixtures("without_type_checks")
def test_a_layer_given_as_a_float_is_that_layer():
    vectors = ControlVectors("hook_resid_post", (0, 1), torch.ones(2, 16).double(), 2)
    (layer,) = vectors.at_layer(1.0).layers
    assert isinstance(layer, int)


def test_a_hook_on_a_name_that_the_model_lacks_is_refused(llama):
    with (
        pytest.raises(
            cna_lens.ModelError, match=r"tiny-llama has no hook point blocks\.1\.nowhere"
        ),
        hooked(llama, [("blocks.1.nowhere", lambda value, hook: value)]),
    ):
        pass


@pytest.mark.parametrize(
    "edit",
    [
        lambda: Scale(16, [3], 0.5),
        lambda: AddVector(torch.ones(16).double()),
        lambda: EraseDirection(torch.eye(16)[0].double()),
    ],
)
def test_an_edit_takes_part_in_gradients_after_inference_mode(edit):
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        change = edit()
        change(x, None)
    wanted = x.clone().requires_grad_()
    change(wanted * 1, None).sum().backward()
    assert bool(wanted.grad.isfinite().all())


@pytest.mark.parametrize(
    "edit",
    [
        lambda: Scale(16, [3], 0.3),
        lambda: AddVector(torch.full((16,), 0.3).double()),
        lambda: EraseDirection(torch.full((16,), 0.25).double()),
    ],
)
def test_a_pass_in_half_precision_leaves_the_next_one_exact(edit):
    x = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    change = edit()
    change(x.bfloat16(), None)
    assert torch.equal(change(x, None), edit()(x, None))


def test_a_factor_is_not_rounded_in_half_precision():
    x = torch.full((1, 16), 100.0, dtype=torch.bfloat16)
    found = Scale(16, [3], 1.003)(x, None)
    # 1.003 alone would be 1 in bfloat16; 100.3 is 100.5 there.
    assert found[0, 3] == 100.5
    assert found[0, 2] == 100


@pytest.mark.usefixtures("without_type_checks")
def test_a_method_without_vectors_has_no_random_direction():
    method = cna_lens.ablation(cna_lens.Circuit((cna_lens.Neuron(0, 1),), (1.0,), LAYOUT))
    with pytest.raises(cna_lens.InputError, match=r"has no vectors; .* use matched_random"):
        cna_lens.random_direction(method)


@pytest.mark.usefixtures("without_type_checks")
def test_a_way_that_is_none_is_refused_at_once():
    with pytest.raises(cna_lens.InputError, match="via is 'weight', expected one of"):
        cna_lens.ablation(cna_lens.Circuit((cna_lens.Neuron(0, 1),), (1.0,), LAYOUT), via="weight")


@pytest.mark.usefixtures("without_type_checks")
def test_one_layer_is_not_a_list_of_layers(llama):
    with pytest.raises(cna_lens.InputError, match=r"layers is 1, expected several: \[1\]"):
        cna_lens.caa_candidates(llama, [[5, 6]], [[7]], layers=1)
