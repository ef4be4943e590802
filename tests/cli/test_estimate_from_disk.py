"""The estimate says whether the memory holds a model, and what reading it from the disk means."""

import json
from functools import partial

import psutil
import pytest
import torch

import cna_lens
from cna_lens.cli import estimate
from cna_lens.models.inside import paged_weights
from cna_lens.models.inside.paged_weights import RESIDENT, TRIAL_PASSES
from cna_lens.models.trial import trial

GIB = 2**30
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
}
BLOCK = 2 * (4 * 1024**2 + 3 * 1024 * 4096 + 2 * 1024)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    return path


def needs_in(dtype, config):
    return cna_lens.requirements("x", config=config, dtype=dtype, device="cpu")


def test_the_blocks_behind_those_that_fit_are_read_in_each_pass(config):
    needs = needs_in(torch.bfloat16, config)
    assert needs.blocks == (BLOCK,) * 10
    others = needs.weights - 10 * BLOCK
    assert needs.read_in_each_pass(int(needs.weights / RESIDENT) + 1) == 0
    assert needs.read_in_each_pass(int((needs.weights - 1) / RESIDENT)) == BLOCK
    assert needs.read_in_each_pass(int((others + 4.5 * BLOCK) / RESIDENT)) == 6 * BLOCK
    assert needs.read_in_each_pass(0) == 10 * BLOCK


def test_the_precision_of_the_files_is_not_that_of_the_estimate(config):
    assert needs_in(torch.float32, config).file_dtype == "bfloat16"


def said(run, config, *options):
    arguments = ["estimate", "--model", "x", "--config", config, "--device", "cpu", "--tflops", 1]
    code, output, _ = run(*arguments, *options)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    return " ".join(output.split())


def test_it_says_how_much_each_pass_reads_and_for_how_long(run, config):
    small = "--memory", 0.25, "--disk", 0.5, "--dtype", "bfloat16"
    read = needs_in(torch.bfloat16, config).read_in_each_pass(GIB // 4)
    text = said(run, config, *small)
    size = f"{read / 2**20:,.1f} MiB"
    assert f"Each pass over them reads {size} from the disk, {2 * read / GIB:,.0f} s" in text
    assert f"Loading takes {TRIAL_PASSES} passes" in text
    assert "free memory 256.0 MiB read from disk" in text
    assert "GPU" not in text


def test_it_says_where_the_memory_holds_the_weights(run, config):
    text = said(run, config, "--memory", 100, "--dtype", "bfloat16")
    assert "free memory 100.00 GiB holds the weights" in text
    assert "Each pass" not in text


def test_files_in_another_precision_are_not_read_while_the_model_runs(run, config):
    text = said(run, config, "--memory", 0.25, "--disk", 1)
    assert "give --dtype bfloat16" in text
    assert "Each pass" not in text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--memory", value) for value in ("0", "-1", "nan", "inf")),
        *(("--disk", "nan"), ("--tflops", "0")),
    ],
)
def test_a_memory_or_rate_that_cannot_be_is_refused_before_anything_is_measured(
    run, config, monkeypatch, option, value
):
    monkeypatch.setattr(estimate, "_measured_tflops", pytest.fail)
    arguments = ["estimate", "--model", "x", "--config", config, "--device", "cpu"]
    code, _, errors = run(*arguments, option, value)
    assert code != 0
    assert f"{option} is {float(value)}, expected a number above 0" in " ".join(errors.split())


def test_a_slow_processor_is_measured_by_a_small_product(config, monkeypatch):
    sides = []

    def seconds(slow, side, _):
        sides.append(side)
        return (side / slow) ** 3

    needs = needs_in(torch.bfloat16, config)
    for slow, last in ((256, 256), (4096, 2048)):
        monkeypatch.setattr(estimate, "_product_seconds", partial(seconds, slow))
        assert estimate._measured_tflops(needs) == pytest.approx(2 * slow**3 / 1e12)
        assert sides[-1] == last
    assert sides == [256, 256, 512, 1024, 2048]


def test_a_configuration_without_a_precision_is_said_to_have_none(run, config):
    plain = {key: value for key, value in LLAMA.items() if key != "torch_dtype"}
    config.write_text(json.dumps(plain))
    text = said(run, config, "--memory", 0.25)
    assert "the configuration does not say which" in text


def test_a_folder_that_cannot_be_written_to_is_named(run, config, monkeypatch):
    def refuse(**_):
        raise PermissionError("no")

    monkeypatch.setattr(estimate.tempfile, "TemporaryDirectory", refuse)
    arguments = ["estimate", "--model", "x", "--config", config, "--device", "cpu"]
    code, _, errors = run(*arguments, "--memory", 0.25, "--dtype", "bfloat16")
    assert code != 0
    assert "give it with --disk" in " ".join(errors.split())


@pytest.mark.long
def test_the_memory_of_this_machine_and_the_rate_of_its_disk_are_measured(
    run, config, monkeypatch, tmp_path
):
    monkeypatch.setattr(estimate.constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(estimate, "_TRIED", 2**24)
    arguments = ["estimate", "--model", "x", "--config", config, "--device", "cpu", "--json"]
    record = json.loads(run(*arguments)[1])
    assert 0 < record["memory"] < psutil.virtual_memory().total
    assert record["disk_gib"] is None
    assert json.loads(run(*arguments, "--memory", 0.25)[1])["disk_gib"] is None
    record = json.loads(run(*arguments, "--memory", 0.25, "--dtype", "bfloat16")[1])
    assert record["read_seconds"] == pytest.approx(
        record["read_in_each_pass"] / GIB / record["disk_gib"]
    )
    assert list(tmp_path.iterdir()) == [config]


def test_the_rate_of_a_local_model_is_that_of_its_largest_file(tmp_path, monkeypatch):
    for name, size in (("a", 10), ("b", 1000), ("c", 100)):
        (tmp_path / f"{name}.safetensors").write_bytes(bytes(size))
    read = []
    monkeypatch.setattr(estimate, "_read_rate", lambda path: read.append(path.name) or 1.0)
    assert estimate.disk_rate(tmp_path) == 1.0
    assert read == ["b.safetensors"]


def test_loading_takes_the_passes_that_the_estimate_states(llama):
    passes = []
    handle = llama.blocks[0].register_forward_pre_hook(lambda *_: passes.append("bridge"))
    del trial._trials[llama]
    plain = trial.PlainModel.logits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trial.PlainModel, "logits", lambda *args: passes.append("plain") or plain(*args)
        )
        patch.setattr(trial, "without_hooks", lambda _: trial.nullcontext())
        trial.tried(llama)
    handle.remove()
    assert len(passes) == TRIAL_PASSES == paged_weights.TRIAL_PASSES
