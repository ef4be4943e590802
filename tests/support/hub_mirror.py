"""A folder in the Hub's layout: tiny random models that read bytes, and a data set of requests."""

import csv

import tiny
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

JBB = "JailbreakBench/JBB-Behaviors"
SPECIAL = ("<s>", "</s>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIGS = {"tiny/llama": LlamaConfig, "tiny/qwen2": Qwen2Config}


def byte_tokenizer(*, chat):
    """One token for each byte, so that different texts have different tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(BPE({letter: place for place, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=list(SPECIAL[2:]),
    )
    if chat:
        fast.chat_template = TEMPLATE
    return fast


def save_model(folder, kind, seed, *, chat):
    """Save a checkpoint as the Hub holds it."""
    tokenizer = byte_tokenizer(chat=chat)
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        tiny.make_weights_matter(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save(root):
    """Save a base and an instruct model of two families, and the data set.

    Only instruct models have a chat template.
    """
    for seed, (name, kind) in enumerate(CONFIGS.items()):
        save_model(root / name, kind, 2 * seed, chat=False)
        save_model(root / f"{name}-Instruct", kind, 2 * seed + 1, chat=True)
    data = root / JBB / "data"
    data.mkdir(parents=True)
    with (data / "harmful-behaviors.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Index", "Goal", "Category"])
        rows.writerows([[i, f"Request number {i} of this set", "none"] for i in range(10)])
    (root / JBB / "README.md").write_text(
        "---\nconfigs:\n- config_name: behaviors\n  data_files:\n  - split: harmful\n"
        "    path: data/harmful-behaviors.csv\n---\n"
    )
    return root
