"""Random models with experts, small enough to boot in milliseconds; no file is read."""

from importlib.util import find_spec

import tiny
import torch

from experiments.families import mixtures
from experiments.families.mixtures import DENSE, SHARED, WIDTH

BY_TYPE = {family.model_type: family for family in mixtures.MIXTURES}
TRANSFORMER_LENS_4 = find_spec("transformer_lens.HookedTransformer") is None
# The bridge of TransformerLens 3 does not compute DeepSeek-V3's attention, so even its plain logits
# are not the model's.
FAMILIES = tuple(
    name
    for name, family in BY_TYPE.items()
    if family.reachable and (TRANSFORMER_LENS_4 or not family.needs_transformer_lens_4)
)

# The number of neurons in each layer that every token passes.
DENSE_WIDTHS = {
    "deepseek_v3": (DENSE, WIDTH, WIDTH),
    "qwen2_moe": (SHARED, DENSE, SHARED),
}
SPARSE_LAYERS = {"deepseek_v3": (1, 2), "qwen2_moe": (0, 2)}


def hugging_face(family, seed=0, dtype=torch.float32):
    """The Hugging Face model; the same seed gives the same weights."""
    return BY_TYPE[family].random(seed, dtype)


def bridge(family, chat=False, seed=0, dtype=torch.float32):
    """The model with TransformerLens's hooks."""
    return tiny.boot(hugging_face(family, seed, dtype), chat, dtype)
