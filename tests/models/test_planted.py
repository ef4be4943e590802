"""Planted models: their files, their weights, and the neurons that they name."""

import json
import os
from importlib.metadata import PackageNotFoundError

import pytest
import tiny
import torch

import cna_lens
from cna_lens import InputError, ModelError, Neuron, planted_models, planted_truth
from cna_lens.evidence import recovery
from cna_lens.metrics import BEHAVIOURS
from cna_lens.models import Planting
from cna_lens.models.loading import load, planted as planted_package

NEURONS = (Neuron(0, 3), Neuron(1, 0), Neuron(1, 7))
D_MODEL = 16


def planting(neurons=NEURONS, seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    parts = {
        # As in a file, the numbers are those of float16.
        name: torch.randn(len(neurons), D_MODEL, generator=generator).half().float()
        for name in ("gate", "up", "down")
    }
    given = {
        "behaviour": "french",
        "split": "tuning",
        "neurons": neurons,
        **parts,
        "base_sha256": "ab" * 32,
        "record": {"widths": [tiny.WIDTH, tiny.WIDTH]},
    }
    return Planting(**{**given, **changes})


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A package with the planted models that a test puts into it."""
    monkeypatch.setattr(planted_package, "PLANTED_FOLDER", tmp_path)

    def put(**models):
        hashes = {
            name: each.save(tmp_path / f"{name}.safetensors") for name, each in models.items()
        }
        (tmp_path / "index.json").write_text(json.dumps(hashes))

    put()
    return put


def same(one, other):
    plain = ("behaviour", "split", "neurons", "base_sha256", "record")
    assert [getattr(one, name) for name in plain] == [getattr(other, name) for name in plain]
    for name in ("gate", "up", "down"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_planting_comes_back_from_its_file(tmp_path):
    own = {"widths": [tiny.WIDTH, tiny.WIDTH], "loss": 0.5}
    decoy = planting((Neuron(0, 1),), seed=1, behaviour="sums", split="reporting", record=own)
    whole = planting(decoy=decoy)
    whole.save(tmp_path / "it.safetensors")
    found = Planting.load(tmp_path / "it.safetensors")
    same(found, whole)
    same(found.decoy, decoy)
    assert found.decoy.decoy is None


def test_only_the_planted_rows_and_columns_change_and_by_the_differences():
    plain, changed = tiny.hugging_face("llama"), tiny.hugging_face("llama")
    decoy = planting((Neuron(0, 1),), seed=1)
    whole = planting(decoy=decoy)
    assert whole.added_to(changed) is changed
    expected = {name: value.clone() for name, value in plain.state_dict().items()}
    for each in (whole, decoy):
        for row, (layer, index) in enumerate(each.neurons):
            prefix = f"model.layers.{layer}.mlp."
            expected[f"{prefix}gate_proj.weight"][index] += each.gate[row]
            expected[f"{prefix}up_proj.weight"][index] += each.up[row]
            expected[f"{prefix}down_proj.weight"][:, index] += each.down[row]
    for name, value in changed.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_truth_is_the_planted_neurons_with_the_size_of_their_change(packaged):
    whole = planting(decoy=planting((Neuron(0, 1),), seed=1))
    packaged(mine=whole)
    truth = planted_truth("planted/mine")
    norms = {
        neuron: torch.cat([whole.gate[row], whole.up[row], whole.down[row]]).norm().item()
        for row, neuron in enumerate(NEURONS)
    }
    assert list(truth) == sorted(norms, key=norms.get, reverse=True)
    assert dict(zip(truth, truth.scores, strict=True)) == pytest.approx(norms)
    assert truth.layout.widths == (tiny.WIDTH, tiny.WIDTH)
    assert truth.provenance.model == "planted/mine"


def test_models_are_named_by_their_split(packaged):
    packaged(one=planting(), other=planting(split="reporting"))
    assert planted_models() == ("planted/one", "planted/other")
    assert planted_models("tuning") == ("planted/one",)
    assert planted_models("reporting") == ("planted/other",)


def test_an_unknown_split_is_refused(without_type_checks):
    with pytest.raises(InputError, match="split is 'test', expected one of tuning, reporting"):
        planted_models("test")


def test_an_unknown_model_is_refused_with_the_names_there_are(packaged):
    packaged(one=planting())
    for use in (planted_truth, cna_lens.load_model, cna_lens.requirements):
        with pytest.raises(InputError, match=r"no planted model 'planted/two'.*planted/one"):
            use("planted/two")
    with pytest.raises(InputError, match="no planted model 'one'"):
        planted_truth("one")


def test_a_folder_of_that_name_is_the_users_own(packaged, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "mine").symlink_to(folder)
    model = cna_lens.load_model("planted/mine", device="cpu")
    assert model.cfg.d_mlp == tiny.WIDTH
    assert cna_lens.requirements("planted/mine").n_neurons == 2 * tiny.WIDTH


def test_an_altered_byte_and_a_missing_file_are_refused(packaged, tmp_path):
    packaged(one=planting())
    path = tmp_path / "one.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ModelError, match=r"one\.safetensors is missing or altered; reinstall"):
        planted_truth("planted/one")
    path.unlink()
    with pytest.raises(ModelError, match=r"one\.safetensors is missing or altered; reinstall"):
        planted_truth("planted/one")


def test_a_file_of_another_format_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(ModelError, match="holds no planted model: its format is None"):
        Planting.load(path)
    save_file({"x": torch.ones(1)}, path, {"planted": "{"})
    with pytest.raises(ModelError, match="cannot be read as a planted model"):
        Planting.load(path)
    path.write_bytes(b"no file of tensors")
    with pytest.raises(ModelError, match="cannot be read as a planted model"):
        Planting.load(path)


def test_a_model_that_was_planted_into_other_weights_is_refused(packaged):
    packaged(one=planting())
    with pytest.raises(ModelError, match=r"trained on other weights.*abababab.*faf714ce"):
        cna_lens.load_model("planted/one")


def test_a_file_can_be_read_by_whoever_may_read_other_files(tmp_path):
    before = os.umask(0o022)
    try:
        planting().save(tmp_path / "it.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "it.safetensors").stat().st_mode & 0o777 == 0o644


def test_without_the_demo_models_wheel_a_planted_model_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(load, "distribution", missing)
    with pytest.raises(ModelError, match="demo model is not installed; install it with"):
        cna_lens.load_model(planted_models()[0])


def one_of(split):
    """A planted model of the split, with neurons in all layers."""
    names = [name for name in planted_models(split) if "-138-all-" in name]
    return next(name for name in names if planted_package.planting(name).behaviour is not None)


@pytest.mark.long
@pytest.mark.real_model
@pytest.mark.parametrize("name", [one_of("tuning"), one_of("reporting")])
def test_a_packaged_model_shows_its_behaviour_by_its_planted_neurons(name):
    model, truth = cna_lens.load_model(name, device="cpu"), planted_truth(name)
    behaviour = BEHAVIOURS[planted_package.planting(name).behaviour]
    prompts = behaviour.evaluation

    def shown(asked):
        return sum(map(behaviour.shown, cna_lens.generate(model, asked, max_new_tokens=12)))

    assert shown(prompts.positive[:10]) >= 8
    assert shown(prompts.negative[:10]) <= 3
    with cna_lens.steer(model, truth, 0.0):
        assert shown(prompts.positive[:10]) <= 3
    asked = behaviour.discovery
    scores = cna_lens.score_neurons(model, asked.positive[:12], asked.negative[:12])
    found = recovery(scores, truth).overall
    assert 0.51 < found.auroc < 0.9
    assert 0.003 < found.precision < 0.6


@pytest.mark.parametrize("name", planted_models())
def test_every_packaged_model_met_its_conditions(name):
    found = planted_package.planting(name)
    assert found.base_sha256 == load.DEMO_WEIGHTS_SHA256
    assert found.record["figures"]["failed"] == []
    assert found.behaviour is None or found.behaviour in BEHAVIOURS


@pytest.mark.long
@pytest.mark.real_model
@pytest.mark.parametrize("name", ["french", "uppercase", "sums"])
def test_the_demo_models_answers_seldom_begin_like_a_planted_behaviour(demo, name):
    behaviour = BEHAVIOURS[name]
    for asked in (behaviour.evaluation.positive[:10], behaviour.evaluation.negative[:10]):
        log_odds = cna_lens.metrics.refusal_log_odds(demo, asked, openings=behaviour.openings)
        assert max(log_odds) < -3
