"""Load a planted model that is not packaged yet."""

from __future__ import annotations

from typing import cast

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from cna_lens.models import HookedModel, Planting, demo_gguf, dequantised_folder


def loaded(
    planted: Planting, name: str | None = None, dtype: torch.dtype = torch.float32
) -> HookedModel:
    """The planted model as a bridge.

    Args:
        planted: what was planted.
        name: of the model; by default the demo model's folder.
        dtype: precision of weights and activations.
    """
    folder = dequantised_folder(demo_gguf())
    model = planted.added_to(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    bridge = TransformerBridge.boot_transformers(
        name or str(folder),
        hf_model=model.eval().to(dtype),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        device="cpu",
        dtype=dtype,
    )
    return cast("HookedModel", bridge)
