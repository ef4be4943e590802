"""Families of decoders with routed experts, each as the shape of a tiny random model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 64
EXPERTS, WIDTH, SHARED, DENSE = 4, 8, 12, 24
PER_TOKEN = 2

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "num_experts_per_tok": PER_TOKEN,
}
_NARROW = {**_COMMON, "intermediate_size": WIDTH}
_BESIDE_DENSE = {**_COMMON, "intermediate_size": DENSE, "moe_intermediate_size": WIDTH}


@dataclass(frozen=True, eq=False)
class Mixture:
    """One family of models with experts.

    Attributes:
        name: what its models are called.
        model_type: its name in a configuration.
        architecture: the class that a configuration names.
        shape: the configuration of the tiny model.
        reachable: whether the experts' neurons can be reached; where not, the model is refused.
        needs_transformer_lens_4: whether TransformerLens 3.9 computes something else.
    """

    name: str
    model_type: str
    architecture: str
    shape: Mapping[str, Any]
    reachable: bool = True
    needs_transformer_lens_4: bool = False

    def __str__(self) -> str:
        """Its name, which tests carry."""
        return self.name


MIXTURES = (
    Mixture(
        "Mixtral",
        "mixtral",
        "MixtralForCausalLM",
        {**_NARROW, "num_local_experts": EXPERTS, "head_dim": 8},
    ),
    Mixture("OLMoE", "olmoe", "OlmoeForCausalLM", {**_NARROW, "num_experts": EXPERTS}),
    Mixture(
        "Qwen3-MoE",
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        {**_BESIDE_DENSE, "num_experts": EXPERTS, "head_dim": 8},
    ),
    Mixture(
        "gpt-oss",
        "gpt_oss",
        "GptOssForCausalLM",
        {**_NARROW, "num_local_experts": EXPERTS, "head_dim": 8},
    ),
    Mixture(
        "DeepSeek-V3",
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        {
            **_BESIDE_DENSE,
            "num_key_value_heads": 2,
            "n_routed_experts": EXPERTS,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 4,
            "qk_rope_head_dim": 4,
            "v_head_dim": 4,
        },
        needs_transformer_lens_4=True,
    ),
    # Interleaved with a dense layer, and with gated shared experts, as DeepSeek's are not.
    Mixture(
        "Qwen2-MoE",
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        {
            **_BESIDE_DENSE,
            "num_experts": EXPERTS,
            "shared_expert_intermediate_size": SHARED,
            "mlp_only_layers": [1],
        },
    ),
    Mixture(
        "Llama 4",
        "llama4_text",
        "Llama4ForCausalLM",
        {
            **_NARROW,
            "num_experts_per_tok": 1,
            "num_local_experts": EXPERTS,
            "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": DENSE,
            "head_dim": 8,
        },
        reachable=False,
    ),
)


def random_mixture(family: Mixture, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """The Hugging Face model; the same seed gives the same weights."""
    config = AutoConfig.for_model(family.model_type, **family.shape)
    config.architectures = [family.architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        # Initial weights are so small, and routers so undecided, that the tokens hardly matter.
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.3)
                elif "norm" not in name:
                    parameter.normal_(0, 0.1)
    return model.eval()
