import pytest
import reference
import tiny
import torch
from steered import IDS, NEGATIVE, POSITIVE, logits, plain

import cna_lens
from cna_lens import ControlVectors, DirectionalAblation
from cna_lens.steering.edits import EraseDirection


def unit(model, layer=1, position=-1):
    hf = plain(model)
    plus, minus = (
        reference.residuals(hf, prompts, "resid_pre", position)[:, layer].mean(0)
        for prompts in (POSITIVE, NEGATIVE)
    )
    return torch.nn.functional.normalize(plus - minus, dim=0)


def erasing(direction, strength, places=slice(None)):
    """A change for `residual_changed`, of the first block's input and all that is written."""

    def change(layer, site, tensor):
        if site == "resid_post" or (site == "resid_pre" and layer):
            return tensor
        along = (tensor.double() @ direction)[..., None] * direction
        tensor = tensor.clone()
        tensor[:, places] -= strength * along[:, places].to(tensor)
        return tensor

    return change


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("layer", [0, 1])
def test_logits_are_those_of_a_model_hooked_by_hand(model, layer, strength):
    hf = plain(model)
    with reference.residual_changed(hf, erasing(unit(model, layer), strength)):
        expected = hf(torch.tensor([IDS])).logits[0]
    method = cna_lens.directional_ablation(model, POSITIVE, NEGATIVE, layer=layer)
    with method.at(model, strength) as applied:
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=5e-5)
    assert len(applied.hook_points) == 5


def test_nothing_along_the_direction_is_left_anywhere_in_the_residual_stream(model):
    method = cna_lens.directional_ablation(model, POSITIVE, NEGATIVE, layer=1)
    direction = unit(model).float()
    sites = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
    points = [f"blocks.{layer}.{site}" for layer in (0, 1) for site in sites]
    left, seen = {}, []

    def note(name):
        return name, lambda activation, hook: left.__setitem__(
            name, float((activation @ direction).abs().max())
        )

    with model.hooks(fwd_hooks=[note(name) for name in points]):
        logits(model)
        seen.append(dict(left))
        with method.at(model):
            logits(model)
        seen.append(dict(left))
    before, after = seen
    assert set(after) == set(points)
    assert min(before.values()) > 1e-2
    # An earlier hook sees the activation before a later one changes it.
    assert after.pop("blocks.0.hook_resid_pre") == before["blocks.0.hook_resid_pre"]
    assert max(after.values()) < 1e-5
    with method.at(model), model.hooks(fwd_hooks=[note("blocks.0.hook_resid_pre")]):
        logits(model)
    assert left["blocks.0.hook_resid_pre"] < 1e-5


def test_a_large_component_is_erased_in_half_precision_too():
    drawn = torch.randn(2, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = drawn[0] / drawn[0].norm()
    x = (100 * direction + drawn[1])[None, None].bfloat16()
    erased = EraseDirection(direction)(x, None)
    assert erased.dtype == torch.bfloat16
    assert abs(float(erased.double() @ direction)) < 0.01


def test_in_half_precision_only_rounding_is_left():
    model = tiny.bridge("llama", dtype=torch.bfloat16)
    method = cna_lens.directional_ablation(model, POSITIVE, NEGATIVE, layer=1)
    direction = method.direction.vectors[0] / method.direction.norms[0]
    left = []

    def note(activation, hook):
        x = activation.double()
        left.append(float(((x @ direction).abs() / x.norm(dim=-1)).max()))

    points = [f"blocks.{layer}.hook_resid_post" for layer in (0, 1)]
    with method.at(model), model.hooks(fwd_hooks=[(name, note) for name in points]):
        logits(model)
    assert max(left) < 2**-7
    assert method.direction.vectors.dtype == torch.float64


@pytest.mark.parametrize(
    ("positions", "places"),
    [("last_prompt", slice(3, 4)), ("from_last_prompt", slice(3, None)), ("prompt", slice(0, 4))],
)
def test_other_positions_keep_theirs(llama, positions, places):
    hf = plain(llama)
    with reference.residual_changed(hf, erasing(unit(llama), 1.0, places)):
        expected = hf(torch.tensor([IDS])).logits[0]
    method = cna_lens.directional_ablation(llama, POSITIVE, NEGATIVE, layer=1, positions=positions)
    with method.at(llama), cna_lens.prompt_lengths([4]):
        torch.testing.assert_close(logits(llama), expected, rtol=0, atol=5e-5)


def test_answers_are_those_of_a_model_hooked_by_hand(model):
    # A random direction, because erasing that of two prompt sets may change no token.
    drawn = torch.randn(16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    vectors = ControlVectors("hook_resid_pre", (1,), 7 * drawn[None], 2)
    hf = plain(model)
    with reference.residual_changed(hf, erasing(drawn / drawn.norm(), 1.0)):
        tokens = reference.greedy(hf, IDS, 6)
    with DirectionalAblation(vectors).at(model):
        steered = cna_lens.generate(model, [IDS, [9, 8]], max_new_tokens=6)
    assert steered[0] == model.tokenizer.decode(tokens, skip_special_tokens=True)


def test_candidates_are_those_of_each_layer_and_token(llama):
    candidates = cna_lens.directional_ablation_candidates(
        llama, POSITIVE, NEGATIVE, read_at=[-1, -2]
    )
    assert [method.name for method in candidates] == [
        f"directional_ablation(layer={layer}, position={position})"
        for position in (-1, -2)
        for layer in (0, 1)
    ]
    for method, (position, layer) in zip(
        candidates, [(-1, 0), (-1, 1), (-2, 0), (-2, 1)], strict=True
    ):
        found = method.direction.vectors[0] / method.direction.norms[0]
        torch.testing.assert_close(found, unit(llama, layer, position), rtol=0, atol=1e-5)


def test_by_default_candidates_are_the_layers_in_which_the_sets_differ(llama):
    same_last_token = [[5, 9], [6, 9]], [[7, 9], [8, 9]]
    (method,) = cna_lens.directional_ablation_candidates(llama, *same_last_token)
    assert method.name == "directional_ablation(layer=1, position=-1)"
    with pytest.raises(cna_lens.InputError, match="do not differ"):
        cna_lens.directional_ablation_candidates(llama, *same_last_token, layers=[0])


def test_its_random_control_erases_another_direction(llama):
    method = cna_lens.directional_ablation(llama, POSITIVE, NEGATIVE, layer=1)
    control = cna_lens.random_direction(method, seed=5)
    hf = plain(llama)
    drawn = control.direction.vectors[0]
    with reference.residual_changed(hf, erasing(drawn / drawn.norm(), 1.0)):
        expected = hf(torch.tensor([IDS])).logits[0]
    with control.at(llama):
        torch.testing.assert_close(logits(llama), expected, rtol=0, atol=5e-5)
    assert control.name.endswith(", seed=5)")


def test_vectors_other_than_one_direction_are_refused(llama):
    two = cna_lens.difference_of_means(llama, POSITIVE, NEGATIVE, site="hook_resid_pre")
    with pytest.raises(cna_lens.InputError, match=r"2 vectors.*at_layer"):
        DirectionalAblation(two)
    zero = ControlVectors("hook_resid_pre", (0,), torch.zeros(1, 16).double(), 2)
    with pytest.raises(cna_lens.InputError, match="the direction is zero"):
        DirectionalAblation(zero)
    with pytest.raises(cna_lens.InputError, match="layer 5 has no vector"):
        cna_lens.directional_ablation(llama, POSITIVE, NEGATIVE, layer=5)


def test_a_write_that_cannot_be_reached_is_refused():
    model = tiny.bridge("llama")
    method = cna_lens.directional_ablation(model, POSITIVE, NEGATIVE, layer=1)
    known = dict(model.hook_dict)

    class Unreachable(type(model)):
        @property
        def hook_dict(self):
            return {name: at for name, at in known.items() if name != "blocks.1.hook_attn_out"}

    model.__class__ = Unreachable
    with (
        pytest.raises(cna_lens.ModelError, match=r"no hook point blocks\.1\.hook_attn_out"),
        method.at(model),
    ):
        pass


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"read_at": "answer"}, r"read_at is 'answer', expected several: \['answer'\]"),
        ({"layers": 1}, r"layers is 1, expected several: \[1\]"),
    ],
)
def test_one_place_is_not_a_list_of_places(llama, settings, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.directional_ablation_candidates(llama, [[5, 6]], [[7]], **settings)
