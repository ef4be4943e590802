"""The benchmark of the paper's shapes, on shapes of a few kilobytes."""

import threading
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from types import SimpleNamespace

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from experiments.benchmarks import memory_watch, shapes
from experiments.shared import weight_files
from experiments.shared.weight_files import write_model

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 49_152,
}


def written(folder, *, holes=False, tied=False):
    shape = shapes.Shape(LlamaConfig(**CONFIG, tie_word_embeddings=tied), holes)
    write_model(folder, shape.config, tiny.tokenizer(), shape.is_dense)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)


@pytest.mark.parametrize("tied", [True, False])
def test_a_written_model_has_random_weights_and_norms_of_one(tmp_path, tied, monkeypatch):
    monkeypatch.setattr(weight_files, "SHARD", 2**20)
    model = written(tmp_path / "model", tied=tied)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    for name, weight in model.named_parameters():
        if "norm" in name:
            assert bool((weight == 1).all())
        else:
            assert float(weight.detach().float().std()) == pytest.approx(
                weight_files.SCALE, rel=0.1
            ), name
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    first, second = (layer.mlp.up_proj.weight for layer in model.model.layers[:2])
    assert not torch.equal(first, second)


def test_holes_are_zeros_and_take_no_disk(tmp_path):
    model = written(tmp_path / "model", holes=True)
    layers = model.model.layers
    assert layers[0].mlp.up_proj.weight.any()
    assert model.model.embed_tokens.weight.any()
    assert not layers[1].mlp.up_proj.weight.any()
    assert not model.lm_head.weight.any()
    files = list((tmp_path / "model").glob("*.safetensors"))
    head = 2 * 64 * 49_152
    on_disk = sum(512 * path.stat().st_blocks for path in files)
    assert on_disk < sum(path.stat().st_size for path in files) - 0.9 * head


def test_a_folder_that_is_there_is_not_written_again(tmp_path):
    written(tmp_path / "model")
    with pytest.raises(FileExistsError):
        written(tmp_path / "model")


@pytest.mark.long
@pytest.mark.real_model
def test_a_row_has_every_step_with_its_figures(tmp_path, monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "small", shapes.Shape(LlamaConfig(**CONFIG)))
    monkeypatch.setattr(shapes, "MANY", 10)
    monkeypatch.setattr(shapes, "NEW_TOKENS", 2)
    tokenizer = shapes.cna_lens.load_model("demo", device="cpu").tokenizer
    path = tmp_path / "small"
    write_model(path, shapes.SHAPES["small"].config, tokenizer, lambda _: True)
    row = shapes.measured("small", path)
    assert not row["from_disk"]
    assert row["weights_gib"] == pytest.approx(2 * row["n_parameters"] / 2**30, rel=0.05)
    assert [step.partition(",")[0] for step in row["steps"]] == [
        "load", "find", "plain", "find", "plain", "attribution patching",
        "16 answers of 2 tokens", "16 answers of 2 tokens", "fingerprint", "attest",
    ]  # fmt: skip
    assert all(each["seconds"] > 0 for each in row["steps"].values())


def anonymous(n_bytes):
    # Straight from the system: memory that the process still has would be taken again.
    memory = mmap(-1, n_bytes, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    for _ in range(n_bytes // 2**20):
        memory.write(b"1" * 2**20)
    return memory


def test_memory_of_the_result_counts_where_no_sample_falls_into_the_run(monkeypatch):
    class Over(threading.Event):
        def wait(self, *_):
            return True

    # The events of other threads wait as ever.
    own = SimpleNamespace(Event=Over, Thread=threading.Thread)
    monkeypatch.setattr(memory_watch, "threading", own)
    assert memory_watch.growth_mib(lambda: anonymous(2**26)) == pytest.approx(64, abs=16)


def test_memory_without_mapped_files_leaves_their_pages_out(tmp_path):
    path = tmp_path / "pages"
    path.write_bytes(bytes(2**26))
    mapped = torch.from_file(str(path), size=2**24, dtype=torch.float32)
    assert memory_watch.growth_mib(lambda: mapped.sum(), mapped=False) < 32
    grown = memory_watch.growth_mib(lambda: anonymous(2**26), mapped=False)
    assert grown == pytest.approx(64, abs=16)
