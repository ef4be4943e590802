"""Estimates from a configuration, compared with the loaded model."""

import json

import pytest
import tiny
import tiny_moe
import torch

import cna_lens
from cna_lens.models.estimate import RESERVE
from experiments.families.families import FAMILIES
from experiments.families.mixtures import EXPERTS, PER_TOKEN
from experiments.families.tiny_models import tiny_model

GIB = 2**30
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
LLAMA_8B = LLAMA | {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


@pytest.fixture
def config(tmp_path):
    def write(**fields):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(fields))
        return path

    return write


# The bridge copies the fused matrices of GPT-2, Pythia and Phi-3, and Gemma 4 ties more than one.
@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Pythia", "Phi-3", "OPT", "Gemma 4", "GLM"])
def test_the_counts_equal_those_of_the_loaded_model(name, tmp_path):
    family = next(family for family in FAMILIES if family.name == name)
    loaded = tiny_model(family)
    loaded.plain.config.save_pretrained(tmp_path)
    needs = cna_lens.requirements("x", config=tmp_path / "config.json", dtype=torch.bfloat16)
    assert needs.n_parameters == sum(weight.numel() for weight in loaded.plain.parameters())
    assert needs.n_neurons == sum(loaded.widths)
    assert needs.weights == sum(2 * weight.numel() for weight in loaded.model.parameters())
    embedding = loaded.plain.get_input_embeddings().weight
    assert needs.embedding >= 2 * embedding.numel()
    assert needs.weights - needs.embedding - sum(needs.blocks) >= 0
    assert len(needs.blocks) == len(loaded.widths)


def test_llama_8b_has_the_parameters_and_the_circuit_of_the_paper(config):
    needs = cna_lens.requirements("8B", config=config(**LLAMA_8B), dtype=torch.bfloat16)
    assert needs.n_parameters == 8_030_261_248
    assert (needs.n_neurons, needs.k) == (458_752, 459)
    # The bridge of TransformerLens 3 adds a bias to the LM head.
    assert needs.weights - 2 * 8_030_261_248 in (0, 2 * 128_256)
    assert needs.embedding == 2 * 128_256 * 4096
    block = 2 * 4096 * (4096 + 1024) + 3 * 4096 * 14336 + 2 * 4096
    assert needs.blocks == (2 * block,) * 32
    tokens = 200 * 64
    assert needs.flops == 2 * (8_030_261_248 - 2 * 128_256 * 4096) * tokens
    assert needs.seconds(1e14) == pytest.approx(1.79, abs=0.01)
    a_token = 32 * 2 * 8 * 128 * 2
    assert needs.cache == 200 * 128 * a_token * 33 // 32
    a_block = 2 * (8 * 4096 + 4 * 14336) + 4 * 3 * 32 * 64
    assert needs.decoding == 200 * (64 * a_block - 64 * a_token)
    long = cna_lens.requirements(
        "8B", config=config(**LLAMA_8B), dtype=torch.bfloat16, new_tokens=1000
    )
    assert long.decoding == 2 * 200 * 128_256 * 2


def test_generation_reads_long_prompts_in_passes_as_large_as_the_budget(config):
    def decoding(**fields):
        path = config(**(LLAMA_8B | {"num_hidden_layers": 2} | fields))
        return cna_lens.requirements("8B", config=path, dtype=torch.bfloat16, length=4096)

    a_block = 2 * (8 * 4096 + 4 * 14336) + 4 * 3 * 32 * 4096
    answers = 200 * 64 * 2 * 2 * 8 * 128 * 2
    assert decoding().decoding == 32_768 * a_block - answers
    assert decoding().decoding_from_disk == 200 * 4096 * a_block - answers
    # Prompts of a model with a window cannot be read in several passes.
    windowed = {"model_type": "mistral", "sliding_window": 1024}
    windowed |= {"architectures": ["MistralForCausalLM"], "head_dim": 128}
    assert decoding(**windowed).decoding == 200 * 4096 * a_block - answers


@pytest.mark.parametrize("family", tiny_moe.FAMILIES)
def test_experts_count_as_neurons_and_compute_only_routed_tokens(family, tmp_path):
    hf = tiny_moe.hugging_face(family)
    hf.config.save_pretrained(tmp_path)
    needs = cna_lens.requirements("x", config=tmp_path / "config.json", length=1, prompts=1)
    parameters = dict(hf.named_parameters())
    assert needs.n_parameters == sum(each.numel() for each in parameters.values())
    ends = {"model.embed_tokens.weight", "lm_head.weight"}
    computing = sum(
        each.numel() * (PER_TOKEN / EXPERTS if ".experts." in name else 1)
        for name, each in parameters.items()
        if name not in ends
    )
    assert needs.flops == 2 * computing
    assert needs.n_neurons == cna_lens.collect(tiny.boot(hf), [[5]]).layout.n_neurons


def test_a_mixture_without_its_number_of_experts_per_token_is_refused(config):
    shape = tiny_moe.BY_TYPE["deepseek_v3"].shape
    fields = {**shape, "model_type": "deepseek_v3", "num_experts_per_tok": None}
    with pytest.raises(cna_lens.ModelError, match="of x has experts, but no num_experts_per_tok"):
        cna_lens.requirements("x", config=config(**fields))


def test_a_folder_is_a_model_too(folder):
    assert cna_lens.requirements(folder) == cna_lens.requirements(
        folder, config=folder / "config.json"
    )
    assert cna_lens.requirements(folder).n_neurons == 2 * tiny.WIDTH


def test_batches_depend_on_the_device(folder):
    on_cpu = cna_lens.requirements(folder, device="cpu", prompts=1000, length=16)
    on_gpu = cna_lens.requirements(folder, device="cuda", prompts=1000, length=16)
    assert on_gpu.batch / on_cpu.batch == pytest.approx(16_000 / 768, rel=1e-6)
    assert on_gpu.cache / on_cpu.cache == 256 / 64
    assert cna_lens.requirements(folder, prompts=10, length=16).batch == on_gpu.batch / 100


def needs_of(embedding, blocks, last, *, statistics=0, batch=0, cache=0, decoding=0):
    return cna_lens.Requirements(
        model="x", dtype="float32", device="cuda", n_parameters=1, n_neurons=1, k=1,
        weights=embedding + sum(blocks) + last, embedding=embedding, blocks=tuple(blocks),
        statistics=statistics, batch=batch, cache=cache, decoding=decoding,
        decoding_from_disk=decoding, flops=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("needs", "cards"),
    [
        (needs_of(10, [20, 20, 20], 10), 1),
        (needs_of(10, [20, 20, 20], 11), 2),
        (needs_of(10, [20, 20, 20], 10, cache=3), 2),
        (needs_of(10, [20, 20, 20], 10, batch=1), 2),
        (needs_of(10, [20, 20, 20], 10, batch=20, statistics=20), 3),
        (needs_of(10, [20, 20, 20], 10, decoding=50), 3),
        (needs_of(10, [20, 20, 20], 10, decoding=70), None),
        (needs_of(50, [50, 50], 50), 4),
        (needs_of(81, [], 0), None),
    ],
)
def test_blocks_are_put_on_cards_whole_and_in_their_order(needs, cards):
    assert needs.cards(round(80 / (1 - RESERVE))) == cards


def test_the_memory_needed_is_the_sum_of_its_parts():
    needs = needs_of(1, [2, 4], 8, statistics=16, batch=32, cache=64, decoding=128)
    assert (needs.discovery, needs.generation) == (15 + 16 + 32, 15 + 64 + 128)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mamba", "num_hidden_layers": 1}, "has no hook point"),
        (LLAMA_8B | {"quantization_config": {"quant_method": "fp8"}}, "x are quantised"),
        ({"model_type": "vits"}, "TransformerLens cannot wrap x"),
        ({"model_type": "no-such-type"}, "could not be loaded"),
        (
            LLAMA_8B | {"num_attention_heads": 3},
            "(?s)configuration of .* is broken.*not a multiple",
        ),
        (LLAMA_8B | {"num_attention_heads": 0}, "configuration of .* is broken"),
        ({"model_type": "bloom", "n_head": 0, "n_layer": 1}, "cannot wrap x: ZeroDivisionError"),
    ],
)
def test_an_unusable_model_is_refused_before_it_is_loaded(config, fields, message):
    with pytest.raises(cna_lens.ModelError, match=message):
        cna_lens.requirements("x", config=config(**fields))


def test_a_missing_configuration_is_named():
    with pytest.raises(cna_lens.ModelError, match=r"nowhere\.json"):
        cna_lens.requirements("x", config="nowhere.json")


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("value", [0, 2.5, float("nan"), True, "64"])
@pytest.mark.parametrize("number", ["prompts", "length", "new_tokens"])
def test_what_is_no_whole_number_from_one_on_is_refused(folder, number, value):
    with pytest.raises(cna_lens.InputError, match=f"{number} is {value!r}, expected a whole"):
        cna_lens.requirements(folder, **{number: value})


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "mps"}, "device is 'mps', expected 'cuda' or 'cpu'"),
        ({"device": "CPU"}, "device is 'CPU'"),
        ({"device": None}, "device is None"),
        ({"dtype": "float32"}, r"dtype is 'float32', expected a precision such as torch\.bfloat16"),
        ({"dtype": torch.int8}, r"dtype is torch\.int8"),
    ],
)
def test_another_device_or_precision_is_refused(folder, options, message):
    with pytest.raises(cna_lens.InputError, match=message):
        cna_lens.requirements(folder, **options)


def test_shapes_alone_show_a_slow_way(config, monkeypatch):
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    llama = config(**(LLAMA_8B | {"num_hidden_layers": 2}))
    assert cna_lens.requirements("8B", config=llama).slower is None
    monkeypatch.setattr(AttentionBridge, "_update_kv_cache", lambda self, k, v, **_: (k, v))
    slower = cna_lens.requirements("8B", config=llama).slower
    assert slower.startswith("the cache of LlamaForCausalLM holds 0 tokens after it has read 4")
    assert "about 20 times slower" in slower
