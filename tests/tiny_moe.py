"""Random models with experts, small enough to boot in milliseconds; no file is read."""

from importlib.util import find_spec

import tiny
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    Llama4TextConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

FAMILIES = ("mixtral", "olmoe", "qwen3_moe", "gpt_oss", "deepseek_v3", "qwen2_moe")
# The bridge of TransformerLens 3 computes another attention than DeepSeek-V3's: its plain logits
# are not the model's.
if find_spec("transformer_lens.HookedTransformer"):
    FAMILIES = tuple(family for family in FAMILIES if family != "deepseek_v3")
EXPERTS, WIDTH, SHARED, DENSE = 4, 8, 12, 24
PER_TOKEN = 2

ARCHITECTURES = {
    "mixtral": "MixtralForCausalLM",
    "olmoe": "OlmoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "llama4": "Llama4ForCausalLM",
}

# Neurons of each layer that every token passes; Qwen2-MoE is interleaved, and its shared experts
# are gated, as DeepSeek's are not.
DENSE_WIDTHS = {
    "deepseek_v3": (DENSE, WIDTH, WIDTH),
    "qwen2_moe": (SHARED, DENSE, SHARED),
}
SPARSE_LAYERS = {"deepseek_v3": (1, 2), "qwen2_moe": (0, 2)}


def _config(family):
    common = {
        "vocab_size": tiny.VOCABULARY,
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
    narrow = {"intermediate_size": WIDTH}
    beside_dense = {"intermediate_size": DENSE, "moe_intermediate_size": WIDTH}
    if family == "mixtral":
        return MixtralConfig(**common, **narrow, num_local_experts=EXPERTS, head_dim=8)
    if family == "olmoe":
        return OlmoeConfig(**common, **narrow, num_experts=EXPERTS)
    if family == "qwen3_moe":
        return Qwen3MoeConfig(**common, **beside_dense, num_experts=EXPERTS, head_dim=8)
    if family == "gpt_oss":
        return GptOssConfig(**common, **narrow, num_local_experts=EXPERTS, head_dim=8)
    if family == "qwen2_moe":
        return Qwen2MoeConfig(
            **common,
            **beside_dense,
            num_experts=EXPERTS,
            shared_expert_intermediate_size=SHARED,
            mlp_only_layers=[1],
        )
    if family == "deepseek_v3":
        return DeepseekV3Config(
            **common | {"num_key_value_heads": 2},
            **beside_dense,
            n_routed_experts=EXPERTS,
            n_shared_experts=1,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=8,
            kv_lora_rank=8,
            qk_nope_head_dim=4,
            qk_rope_head_dim=4,
            v_head_dim=4,
        )
    return Llama4TextConfig(
        **common | {"num_experts_per_tok": 1},
        **narrow,
        num_local_experts=EXPERTS,
        interleave_moe_layer_step=2,
        intermediate_size_mlp=DENSE,
        head_dim=8,
    )


def hugging_face(family, seed=0, dtype=torch.float32):
    """The model alone; the same seed gives the same weights."""
    config = _config(family)
    config.architectures = [ARCHITECTURES[family]]
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
