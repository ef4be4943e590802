"""SAELens's autoencoders, which need a TransformerLens below 4."""

import json

import pytest
import sae_lens
import tiny
import torch

import cna_lens
from cna_lens import FeatureScaling, InputError, ModelError
from experiments.sae.measure import measure, reconstruction
from experiments.sae.train import RECORD, Recipe, fit, train

HOOK = "blocks.1.hook_resid_post"
IDS = [5, 6, 7, 8, 30, 31]
POSITIVE = [[5, 6, 7], [8, 9, 3, 4], [40, 41]]
NEGATIVE = [[12, 13], [50, 5, 51], [20, 21, 22]]
ARCHITECTURES = {
    "standard": lambda **cfg: sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**cfg)),
    "topk": lambda **cfg: sae_lens.TopKSAE(
        sae_lens.TopKSAEConfig(**cfg, k=8, rescale_acts_by_decoder_norm=True)
    ),
    "jumprelu": lambda **cfg: sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**cfg)),
    "gated": lambda **cfg: sae_lens.GatedSAE(sae_lens.GatedSAEConfig(**cfg)),
}


def autoencoder(architecture="standard", hook=HOOK, normalize="none"):
    metadata = sae_lens.saes.sae.SAEMetadata(hook_name=hook, model_name="tiny")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ARCHITECTURES[architecture](
            d_in=16, d_sae=40, normalize_activations=normalize, metadata=metadata
        )


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS]))[0]


@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.filterwarnings("ignore:Setting use_error_term directly:DeprecationWarning")
def test_steering_is_saelens_own_forward_pass_with_its_error_term(llama, architecture, normalize):
    sae = autoencoder(architecture, normalize=normalize)
    features = cna_lens.sae_features(llama, sae, POSITIVE, NEGATIVE, k=5)

    def scaled(acts, hook):
        factors = torch.ones(40)
        factors[list(features.indices)] = 0.25
        return acts * factors

    def replaced(x, hook):
        with sae.hooks(fwd_hooks=[("hook_sae_acts_post", scaled)]):
            return sae(x)

    sae.use_error_term = True
    with torch.no_grad():
        expected = llama.run_with_hooks(torch.tensor([IDS]), fwd_hooks=[(HOOK, replaced)])[0]
    sae.use_error_term = False
    assert (expected - logits(llama)).abs().max() > 1e-3
    with FeatureScaling(features).at(llama, 0.75):
        torch.testing.assert_close(logits(llama), expected, rtol=0, atol=1e-4)


def test_a_saved_autoencoder_is_loaded_from_its_folder(llama, tmp_path):
    sae = autoencoder("topk")
    sae.save_model(tmp_path)
    loaded = cna_lens.load_sae(tmp_path)
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.encode(x), sae.encode(x))
    assert torch.equal(loaded.decode(sae.encode(x)), sae(x))
    features = cna_lens.sae_features(llama, loaded, POSITIVE, NEGATIVE, k=3)
    assert features.hook_point == HOOK
    assert isinstance(FeatureScaling(features), cna_lens.SteeringMethod)


def test_a_transcoder_is_refused(llama):
    metadata = sae_lens.saes.sae.SAEMetadata(hook_name=HOOK, hook_name_out="blocks.1.hook_mlp_out")
    transcoder = sae_lens.Transcoder(
        sae_lens.TranscoderConfig(
            d_in=16, d_sae=40, d_out=16, apply_b_dec_to_input=False, metadata=metadata
        )
    )
    with pytest.raises(InputError, match="so it is a transcoder"):
        cna_lens.sae_features(llama, transcoder, POSITIVE, NEGATIVE, k=1)


@pytest.mark.parametrize(
    ("release", "sae_id", "message"),
    [
        ("gpt2-small-res-jb", "blocks.99.hook_resid_pre", "ID blocks.99.hook_resid_pre not found"),
        ("no-such-release", "blocks.8.hook_resid_pre", "Release no-such-release not found"),
        ("gpt2-small-res-jb", None, "names a release, and sae_id is missing"),
    ],
)
def test_a_name_unknown_to_saelens_is_refused(release, sae_id, message):
    with pytest.raises(InputError, match=message):
        cna_lens.load_sae(release, sae_id)


def test_an_unreachable_release_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"gpt2-small-res-jb blocks\.8\.hook_resid_pre could not"):
        cna_lens.load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")


def test_a_folder_without_an_autoencoder_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"a folder with cfg\.json and sae_weights\.safetensors"):
        cna_lens.load_sae(tmp_path)


def test_training_explains_activations_that_are_sparse_sums_of_directions():
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1)
    present = torch.rand(4000, 24, generator=generator) < 0.08
    activations = 3 * (present * (1 + torch.rand(4000, 24, generator=generator))) @ directions
    sae = fit(
        Recipe(HOOK, n_tokens=4000, epochs=20, expansion=2, k=4, batch_size=200),
        activations,
        "tiny",
    )
    with torch.no_grad():
        left = activations - sae(activations)
    unexplained = left.square().sum() / (activations - activations.mean(0)).square().sum()
    assert unexplained < 0.25


def test_a_perfect_autoencoder_recovers_all_and_half_of_one_does_not(chat_model, monkeypatch):
    monkeypatch.setattr("experiments.sae.measure.HELD_OUT_TOKENS", 200)
    one = torch.eye(16)
    perfect = tiny.Autoencoder(HOOK, torch.cat([one, -one], dim=1), torch.cat([one, -one]))
    found = reconstruction(chat_model, perfect, ["w5 w6", "w7"], seed=0)
    assert (found["tokens"], found["features_active_per_token"]) == (200, 16)
    assert found["explained_variance"] == pytest.approx(1, abs=1e-9)
    assert found["share_of_kl_recovered"] == pytest.approx(1, abs=1e-6)
    perfect.w_dec[:, 8:] = 0
    found = reconstruction(chat_model, perfect, ["w5 w6", "w7"], seed=0)
    assert found["explained_variance"] < 0.9
    assert found["share_of_kl_recovered"] < 0.9


# For the tiny tokenizer nearly all words of the packaged prompts are one unknown word.
@pytest.mark.filterwarnings("ignore:.*duplicates:cna_lens.CnaLensWarning")
@pytest.mark.filterwarnings("ignore:.*stand in both sets:cna_lens.CnaLensWarning")
def test_an_autoencoder_is_trained_and_measured(chat_model, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.sae.measure.HELD_OUT_TOKENS", 200)
    recipe = Recipe(HOOK, n_tokens=650, epochs=4, expansion=8, k=8, batch_size=100)
    record = json.loads((train(recipe, tmp_path, chat_model) / RECORD).read_text())
    assert (record["tokens"], record["tokens_seen"], record["features"]) == (650, 2400, 128)
    assert record["altogether"]["cpu_seconds"] > record["fitting"]["cpu_seconds"] > 0
    row = measure(tmp_path, chat_model, seed=0, command="test", limit=2)
    assert row["weights_sha256"] == cna_lens.weights_hash(chat_model)
    assert row["reconstruction"]["features_active_per_token"] <= 8
    assert [each["n"] for each in row["finding"]] == [1] * 6
    assert [each["method"] for each in row["effect"]][-1] == "random active features, 1 %, positive"
    other = tiny.bridge("llama", chat=True, seed=1)
    with pytest.raises(InputError, match="was trained on other weights than tiny-llama"):
        measure(tmp_path, other, seed=0, command="test")
