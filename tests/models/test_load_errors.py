"""Errors for models that cannot be loaded name the fix."""

from pathlib import Path

import pytest
import tiny
from hub_server import HubServer, move_hub, use_hub
from huggingface_hub import constants

import cna_lens

NAME = "owner/model"


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """The Hub on this machine, an empty cache, and a client that does not wait between tries."""
    with HubServer(folder) as server:
        use_hub(monkeypatch, server.url, tmp_path / "hub")
        yield server


def refused(message, name=NAME):
    with pytest.raises(cna_lens.ModelError, match=message) as raised:
        cna_lens.load_model(name, device="cpu")
    assert str(raised.value).startswith(f"{name} could not be loaded: ")


def test_a_model_on_the_hub_is_loaded_by_its_name(hub):
    model = cna_lens.load_model(NAME, device="cpu")
    assert model.cfg.model_name == NAME
    assert cna_lens.weights_hash(model) == cna_lens.weights_hash(tiny.hugging_face("llama"))


def test_an_unknown_name_and_a_gated_model_have_different_errors(hub):
    hub.refusal = (404, "RepoNotFound")
    refused("has no public model of this name. Check the name.*hf auth login")
    hub.refusal = (403, "GatedRepo")
    refused(f"ask for consent. Give it at {hub.url}/{NAME}, then log in with `hf auth login`")


def test_an_interrupted_download_can_be_continued(hub):
    hub.cut_weights = True
    refused("the connection broke off.*Downloaded parts are kept: call again")
    hub.cut_weights = False
    assert cna_lens.load_model(NAME, device="cpu").cfg.model_name == NAME


def full_disk(*_, **__):
    Path("/dev/full").write_bytes(b"weights")


@pytest.mark.usefixtures("hub")
def test_a_full_disk_names_the_download_folder(monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.http_get", full_disk)
    refused("no space is left on the disk.*set HF_HOME")


def test_offline_the_error_names_the_cache_and_the_workaround(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(
        "not complete in the cache.*HF_HUB_OFFLINE forbids.*hf download owner/model --local-dir"
    )


def test_an_unreachable_hub_is_not_reported_as_a_missing_model(hub, monkeypatch):
    move_hub(monkeypatch, "http://127.0.0.1:9")
    refused("http://127.0.0.1:9 cannot be reached: check the network.*hf download owner/model")


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A .gguf file without a model in it, and an empty cache that must stay so."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(cna_lens.models.loading.load, "cache_folder", lambda: cache)
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(64))
    yield file
    assert list(cache.iterdir()) == []


@pytest.fixture
def sharded(tmp_path):
    """A checkpoint in several files of weights."""
    path = tmp_path / "sharded"
    tiny.hugging_face("llama").save_pretrained(path, max_shard_size="8KB")
    tiny.tokenizer().save_pretrained(path)
    return path


def shards(folder):
    return sorted(path.name for path in folder.glob("*.safetensors"))


def test_a_model_in_several_shards_is_loaded_as_one(sharded):
    assert len(shards(sharded)) > 2
    model = cna_lens.load_model(sharded, device="cpu")
    assert cna_lens.weights_hash(model) == cna_lens.weights_hash(tiny.hugging_face("llama"))


def test_a_missing_shard_is_named(sharded):
    lost = shards(sharded)[1]
    (sharded / lost).unlink()
    refused(f"{lost}, which model.safetensors.index.json names, is not in the folder", sharded)


def test_a_truncated_shard_is_named(sharded):
    cut = sharded / shards(sharded)[1]
    cut.write_bytes(cut.read_bytes()[:-8])
    refused(f": {cut.name} cannot be read.*delete it, and copy or download it again", sharded)


def test_a_truncated_index_of_shards_is_named(sharded):
    index = sharded / "model.safetensors.index.json"
    index.write_text(index.read_text()[:-8])
    refused("index.json cannot be read.*delete it, and copy or download it again", sharded)
    (sharded / "config.json").unlink()
    index.write_text("{}")
    refused("index.json cannot be read.*delete it, and copy or download it again", sharded)


def test_an_error_for_a_folder_without_a_configuration_lists_what_is_expected(sharded):
    (sharded / "config.json").unlink()
    refused("Expected 'demo', a Hub name.*config.json", sharded)


def test_an_invalid_gguf_file_is_refused_and_leaves_nothing(gguf):
    refused("Expected 'demo', a Hub name.*or a .gguf file", gguf)


def test_a_full_disk_while_a_gguf_file_is_unpacked_names_the_cache_folder(gguf, monkeypatch):
    monkeypatch.setattr(cna_lens.models.loading.load, "_dequantise", full_disk)
    refused("no space is left.*XDG_CACHE_HOME", gguf)


@pytest.mark.parametrize("option", ["hf_model", "tokenizer"])
def test_a_model_of_ones_own_is_not_dropped_for_that_of_a_folder(folder, option):
    with pytest.raises(cna_lens.InputError, match=f"{option} was given with tiny-checkpoint"):
        cna_lens.load_model(folder, device="cpu", **{option: object()})
