"""Features of a sparse autoencoder: found by contrast, scaled in place of neurons."""

import math
from dataclasses import replace

import pytest
import tiny
import tiny_moe
import torch
from steered import IDS, NEGATIVE, POSITIVE, logits

import cna_lens
from cna_lens import (
    ActivationError,
    FeatureScaling,
    InputError,
    ModelError,
    SaeFeatures,
    VectorMismatchError,
)

HOOK = "blocks.1.hook_resid_post"
SITES = ("hook_resid_pre", "hook_resid_post", "hook_mlp_out", "mlp.hook_post")


def autoencoder(hook=HOOK):
    return tiny.autoencoder(hook, tiny.WIDTH if hook.endswith("mlp.hook_post") else 16)


def found(model, hook=HOOK, k=4, **options):
    return cna_lens.sae_features(model, autoencoder(hook), POSITIVE, NEGATIVE, k=k, **options)


def at_hook(model, ids, hook=HOOK):
    """The activation at a hook point, by TransformerLens alone."""
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=[hook])
    return cache[hook][0]


def by_hand(model, hook, change, ids=IDS):
    with torch.no_grad():
        return model.run_with_hooks(
            torch.tensor([ids]), fwd_hooks=[(hook, lambda x, hook: change(x))]
        )[0]


class Identity(tiny.Autoencoder):
    """Reconstructs perfectly: one feature for each direction, and one for its opposite."""

    def __init__(self, hook=HOOK, d_in=16):
        one = torch.eye(d_in)
        super().__init__(hook, torch.cat([one, -one], 1), torch.cat([one, -one]))


def test_a_linear_autoencoder_is_steered_as_computed_by_hand(llama):
    # f = (2, 1) x (1, 0, ...) and (0, 1, ...), d_0 = (0, 0, 1, ...), d_1 = (0, 0, 0, 1, ...).
    w_enc, w_dec = torch.zeros(16, 2), torch.zeros(2, 16)
    w_enc[0, 0], w_enc[1, 1], w_dec[0, 2], w_dec[1, 3] = 2.0, 1.0, 1.0, 1.0
    sae = tiny.Autoencoder(HOOK, w_enc, w_dec, b_dec=torch.full((16,), 0.1))
    x = at_hook(llama, IDS)
    assert (x[:, 0] > 0.1).any()
    assert (x[:, 0] < 0.1).any()
    expected = x.clone()
    expected[:, 2] -= 0.75 * 2 * (x[:, 0] - 0.1).clamp(min=0)
    seen = []
    note = [(HOOK, lambda x, hook: seen.append(x[0]))]
    with (
        FeatureScaling(SaeFeatures(sae, (0,), (1.0,))).at(llama, 0.75),
        llama.hooks(fwd_hooks=note),
    ):
        logits(llama)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_scores_are_the_difference_of_mean_features_at_the_last_token(model, site):
    hook = f"blocks.0.{site}"
    sae = autoencoder(hook)
    means = [
        torch.stack([sae.encode(at_hook(model, ids, hook)[-1]) for ids in prompts]).double().mean(0)
        for prompts in (POSITIVE, NEGATIVE)
    ]
    expected = means[0] - means[1]
    features = cna_lens.sae_features(model, sae, POSITIVE, NEGATIVE, fraction=0.25)
    order = expected.abs().argsort(descending=True)[:10]
    assert list(features.indices) == order.tolist()
    torch.testing.assert_close(
        torch.tensor(features.scores).double(), expected[order], rtol=1e-4, atol=1e-4
    )
    assert set(features.active) == set(((means[0] != 0) | (means[1] != 0)).nonzero()[:, 0].tolist())
    assert (features.hook_point, features.model) == (hook, model.cfg.model_name)
    assert features.positive.prompts.count == 3


def test_nothing_behind_the_layer_is_computed(llama):
    ran = []
    with llama.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook: ran.append(1))]):
        found(llama, "blocks.0.hook_resid_post")
        assert not ran
        found(llama, "blocks.1.hook_resid_post")
        assert ran


def test_a_planted_feature_is_found(llama):
    # The planted feature reads the difference of the sets, the others read hardly anything.
    without = at_hook(llama, NEGATIVE[0])[-1]
    sae = autoencoder()
    sae.b_dec, sae.b_enc = without, torch.zeros(40)
    sae.w_enc = sae.w_enc * 0.001
    sae.w_enc[:, 17] = at_hook(llama, POSITIVE[0])[-1] - without
    features = cna_lens.sae_features(llama, sae, POSITIVE[:1], NEGATIVE[:1], k=1)
    assert features.indices == (17,)
    assert features.scores[0] > 0
    swapped = cna_lens.sae_features(llama, sae, NEGATIVE[:1], POSITIVE[:1], k=1)
    assert (swapped.indices, swapped.scores) == ((17,), (-features.scores[0],))


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_feature_that_is_not_a_number_is_refused(llama, weight):
    sae = autoencoder()
    sae.b_enc[17] = weight
    with pytest.raises(ActivationError, match="1 of 40 features, feature 17 among them"):
        cna_lens.sae_features(llama, sae, POSITIVE, NEGATIVE, k=4)


def test_an_autoencoder_of_a_dense_layer_beside_experts_is_read():
    model = tiny_moe.bridge("deepseek_v3")
    sae = tiny.autoencoder("blocks.0.mlp.hook_post", tiny_moe.DENSE)
    features = cna_lens.sae_features(model, sae, POSITIVE, NEGATIVE, k=2)
    means = [
        torch.stack([sae.encode(at_hook(model, ids, features.hook_point)[-1]) for ids in prompts])
        for prompts in (POSITIVE, NEGATIVE)
    ]
    differences = means[0].mean(0) - means[1].mean(0)
    assert list(features.indices) == differences.abs().argsort(descending=True)[:2].tolist()


def test_signs_choose_among_differences_of_that_sign(llama):
    for sign, holds in (("positive", lambda s: s > 0), ("negative", lambda s: s < 0)):
        assert all(map(holds, found(llama, sign=sign).scores))
    top = found(llama, k=12)
    assert {score > 0 for score in top.scores} == {True, False}
    assert [abs(score) for score in top.scores] == sorted(map(abs, top.scores), reverse=True)


@pytest.mark.parametrize("multiplier", [0.0, 3.0])
@pytest.mark.parametrize("site", SITES)
def test_steering_equals_a_hook_written_by_hand(model, site, multiplier):
    hook = f"blocks.0.{site}"
    features = found(model, hook)
    sae, strength = features.sae, 0.6

    def change(x):
        f = sae.encode(x)
        scaled = f.clone()
        scaled[..., list(features.indices)] *= 1 - strength * (1 - multiplier)
        return x + (scaled @ sae.w_dec - f @ sae.w_dec)

    expected = by_hand(model, hook, change)
    assert (expected - logits(model)).abs().max() > 1e-3
    with FeatureScaling(features, multiplier).at(model, strength):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-4)


def test_ablating_all_features_of_a_perfect_autoencoder_leaves_nothing(llama):
    every = SaeFeatures(Identity(), tuple(range(32)), (0.0,) * 32)
    expected = by_hand(llama, HOOK, torch.zeros_like)
    with FeatureScaling(every).at(llama):
        assert torch.equal(logits(llama), expected)


def test_the_part_that_is_not_reconstructed_stays(llama):
    # Half of the directions have features; the others pass untouched.
    half = Identity()
    half.w_enc[8:] = 0
    half.w_dec[:, 8:] = 0
    every = SaeFeatures(half, tuple(range(32)), (0.0,) * 32)
    expected = by_hand(
        llama, HOOK, lambda x: torch.cat([torch.zeros_like(x[..., :8]), x[..., 8:]], -1)
    )
    with FeatureScaling(every).at(llama):
        torch.testing.assert_close(logits(llama), expected, rtol=0, atol=1e-6)


def test_a_token_without_active_features_keeps_its_activation_bit_for_bit(llama):
    sae = autoencoder()
    features = sae.encode(at_hook(llama, IDS))
    some = [i for i in range(40) if 0 < int((features[:, i] > 0).sum()) < len(IDS)]
    silent = features[:, some[0]] == 0
    x, seen = at_hook(llama, IDS), []
    method = FeatureScaling(SaeFeatures(sae, (some[0],), (1.0,)))
    with method.at(llama), llama.hooks(fwd_hooks=[(HOOK, lambda x, hook: seen.append(x[0]))]):
        logits(llama)
    assert torch.equal(seen[0][silent], x[silent])
    assert not torch.isclose(seen[0][~silent], x[~silent]).all(1).any()


def test_the_control_draws_other_features_that_were_active(llama):
    features = found(llama)
    control = features.random(seed=3)
    assert len(control) == len(features)
    assert not set(control.indices) & set(features.indices)
    assert set(control.indices) <= set(features.active)
    assert control.indices == features.random(seed=3).indices != features.random(seed=4).indices
    with FeatureScaling(control).at(llama):
        steered = logits(llama)
    assert not torch.equal(steered, logits(llama))


def test_a_control_from_too_few_active_features_is_refused(llama):
    features = replace(found(llama, k=3), active=(1, 2))
    with pytest.raises(InputError, match="other features were active on the prompts, a control"):
        features.random()


def test_a_feature_that_does_not_differ_is_never_chosen(llama):
    sae = autoencoder()
    sae.w_enc[:, 3:] = 0
    with pytest.raises(InputError, match=r"4 features were asked for, [0-3] of 40 differ"):
        cna_lens.sae_features(llama, sae, POSITIVE, NEGATIVE, k=4)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"k": 41}, "k is 41, the autoencoder has 40 features"),
        ({"k": 0}, "k is 0"),
        ({"k": 2, "fraction": 0.1}, "not both"),
        ({}, "give either fraction or k"),
    ],
)
def test_an_invalid_size_is_refused(llama, size, message):
    with pytest.raises(InputError, match=message):
        cna_lens.sae_features(llama, autoencoder(), POSITIVE, NEGATIVE, **size)


def test_an_autoencoder_of_another_width_is_refused(llama):
    wide = tiny.autoencoder(HOOK, d_in=20)
    message = f"20 values for each token at {HOOK}, tiny-llama has 16; take an autoencoder of"
    with pytest.raises(VectorMismatchError, match=message):
        cna_lens.sae_features(llama, wide, POSITIVE, NEGATIVE, k=1)
    method = FeatureScaling(SaeFeatures(wide, (0,), (1.0,)))
    for strength in (0.0, 1.0):
        with pytest.raises(VectorMismatchError, match=message), method.at(llama, strength):
            pass
    neurons = tiny.autoencoder("blocks.0.mlp.hook_post", d_in=16)
    with pytest.raises(VectorMismatchError, match="tiny-llama has 24"):
        cna_lens.sae_features(llama, neurons, POSITIVE, NEGATIVE, k=1)


def test_a_hook_point_that_the_model_lacks_is_refused(llama):
    with pytest.raises(ModelError, match=r"tiny-llama has no hook point blocks\.2\.hook_resid_pre"):
        found(llama, "blocks.2.hook_resid_pre")


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.1.attn.hook_z", r"is of blocks\.1\.attn\.hook_z, expected one of blocks\.N\.mlp"),
        ("hook_embed", "is of hook_embed, expected one of"),
        (None, r"set sae\.cfg\.metadata\.hook_name"),
    ],
)
def test_an_autoencoder_of_another_kind_of_place_is_refused(llama, hook, message):
    sae = autoencoder()
    sae.cfg.metadata.hook_name = hook
    with pytest.raises(InputError, match=message):
        cna_lens.sae_features(llama, sae, POSITIVE, NEGATIVE, k=1)


def test_a_transcoder_is_refused(llama):
    sae = autoencoder()
    sae.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
    with pytest.raises(InputError, match=r"writes blocks\.1\.hook_mlp_out, so it is a transcoder"):
        cna_lens.sae_features(llama, sae, POSITIVE, NEGATIVE, k=1)


def test_features_that_do_not_exist_or_repeat_are_refused():
    sae = autoencoder()
    with pytest.raises(InputError, match="feature 40 does not exist"):
        SaeFeatures(sae, (40,), (1.0,))
    with pytest.raises(InputError, match="name each feature once"):
        SaeFeatures(sae, (4, 4), (1.0, 1.0))
    with pytest.raises(InputError, match="1 features came with 2 scores"):
        SaeFeatures(sae, (4,), (1.0, 1.0))


@pytest.mark.usefixtures("without_type_checks")
def test_invalid_settings_are_refused(llama):
    features = found(llama)
    with pytest.raises(InputError, match="multiplier is inf"):
        FeatureScaling(features, math.inf)
    with pytest.raises(InputError, match="positions is 'last'"):
        FeatureScaling(features, positions="last")


def test_without_saelens_the_error_gives_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sae_lens", None)
    message = r'pip install "cna-lens\[sae\]" "transformer-lens==3\.9\.0"\n.*below 4'
    with pytest.raises(ModelError, match=message):
        cna_lens.load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")


@pytest.mark.long
@pytest.mark.real_model
def test_features_of_the_demo_model_steer_it(demo):
    refusal = cna_lens.prompt_set("refusal_small")
    sae = tiny.autoencoder("blocks.15.hook_resid_post", int(demo.cfg.d_model), 256)
    features = cna_lens.sae_features(demo, sae, refusal.positive, refusal.negative, k=8)
    with FeatureScaling(features).at(demo):
        steered = cna_lens.metrics.refusal_log_odds(demo, refusal.positive[:2])
    assert steered != cna_lens.metrics.refusal_log_odds(demo, refusal.positive[:2])
