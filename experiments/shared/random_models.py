"""Models of random weights and prompts of random tokens; time depends on their shape alone."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import cna_lens
from cna_lens.models import HookedModel


def random_llama(
    name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32, **shape: Any
) -> HookedModel:
    """A Llama of this shape with random weights, through TransformerLens."""
    config = LlamaConfig(architectures=["LlamaForCausalLM"], tie_word_embeddings=False, **shape)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=dtype)
    return bridge(name, model.eval(), device=device, dtype=dtype)


def bridge(
    name: str,
    model: Any,
    *,
    vocabulary: int = 3,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HookedModel:
    """The Hugging Face model in a TransformerBridge, with a tokenizer of words."""
    from transformer_lens.model_bridge import TransformerBridge

    with tempfile.TemporaryDirectory() as folder:
        booted = TransformerBridge.boot_transformers(
            name,
            hf_model=model,
            tokenizer=word_tokenizer(Path(folder), vocabulary),
            device=device,
            dtype=dtype,
        )
    return booted.eval()


def random_prompts(
    n: int, tokens: int, shared: int, vocabulary: int, seed: int = 0
) -> list[list[int]]:
    """Prompts of random token ids that begin with the same `shared` tokens."""
    draw = random.Random(seed)
    prefix = [draw.randrange(3, vocabulary) for _ in range(shared)]
    return [
        prefix + [draw.randrange(3, vocabulary) for _ in range(tokens - shared)] for _ in range(n)
    ]


def find_in_halves(model: HookedModel, prompts: Sequence[list[int]]) -> cna_lens.Circuit:
    """Find a circuit of the first half of the prompts against the second."""
    half = len(prompts) // 2
    return cna_lens.find_circuit(
        model, prompts[:half], prompts[half:], universal=None, progress=False
    )


def chunks(rows: Sequence[list[int]], size: int) -> list[list[list[int]]]:
    """Consecutive groups of `size` rows."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def word_tokenizer(folder: Path, vocabulary: int = 3) -> Any:
    """A tokenizer of words, read from a folder, where TransformerLens reads it again."""
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(3, vocabulary))]
    raw = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
