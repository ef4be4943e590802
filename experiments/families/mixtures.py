"""Families of decoders with routed experts."""

from __future__ import annotations

from typing import Any

from experiments.families.architecture import GROUPED, Architecture

EXPERTS, WIDTH, SHARED, DENSE = 4, 8, 12, 24
PER_TOKEN = 2

_COMMON = {**GROUPED, "num_hidden_layers": 3, "num_experts_per_tok": PER_TOKEN}
_NARROW = {**_COMMON, "intermediate_size": WIDTH}
_BESIDE_DENSE = {**_COMMON, "intermediate_size": DENSE, "moe_intermediate_size": WIDTH}


class Mixture(Architecture):
    """One family of models with experts."""

    def make_weights_matter(self, model: Any) -> None:
        """Draw the weights anew, so that routers decide and tokens matter."""
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
            elif "norm" not in name:
                parameter.normal_(0, 0.1)


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
