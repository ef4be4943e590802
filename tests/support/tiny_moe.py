"""Random models with experts, small enough to boot in milliseconds; no file is read."""

from importlib.util import find_spec

import tiny
import torch

from experiments.families import mixtures
from experiments.families.mixtures import DENSE, SHARED, WIDTH

BY_TYPE = {family.model_type: family for family in mixtures.MIXTURES}
TRANSFORMER_LENS_4 = find_spec("transformer_lens.HookedTransformer") is None
# The bridge of TransformerLens 3 computes another attention than DeepSeek-V3's: its plain logits
# are not the model's.
FAMILIES = tuple(
    name
    for name, family in BY_TYPE.items()
    if family.reachable and (TRANSFORMER_LENS_4 or not family.needs_transformer_lens_4)
)

# Neurons of each layer that every token passes.
DENSE_WIDTHS = {
    "deepseek_v3": (DENSE, WIDTH, WIDTH),
    "qwen2_moe": (SHARED, DENSE, SHARED),
}
SPARSE_LAYERS = {"deepseek_v3": (1, 2), "qwen2_moe": (0, 2)}


def hugging_face(family, seed=0, dtype=torch.float32):
    """The model alone; the same seed gives the same weights."""
    return BY_TYPE[family].random(seed, dtype)


def bridge(family, chat=False, seed=0, dtype=torch.float32):
    """The model with TransformerLens's hooks."""
    return booted(hugging_face(family, seed, dtype), chat, dtype)


def booted(hf, chat=False, dtype=torch.float32):
    """A bridge around a model whose weights a test has chosen."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        f"tiny-{hf.config.model_type}",
        hf_model=hf,
        tokenizer=tiny.tokenizer(chat),
        device="cpu",
        dtype=dtype,
    )
