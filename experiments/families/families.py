"""Families of dense decoders, each with the names of its MLPs and projections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from experiments.families.architecture import GROUPED, SPECIAL, USUAL, VOCABULARY, Architecture
from experiments.families.pruned_llama import prune

WINDOW = 8
"""Positions of a sliding window, fewer than the prompts have."""

_HEADS_OF_8 = {**GROUPED, "head_dim": 8}
_WINDOWED = {**_HEADS_OF_8, "sliding_window": WINDOW}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_inner": 24,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    **SPECIAL,
}
_ONE_WINDOWED = {**_WINDOWED, "layer_types": ["sliding_attention", "full_attention"]}


@dataclass(frozen=True, eq=False)
class Family(Architecture):
    """One family of dense models.

    Attributes:
        mlp: the name of a layer's MLP in the Hugging Face model.
        down: its down projection.
        up: its projection whose last rows make the neurons, behind the gate's if both are fused.
        prune: changes the model before TransformerLens wraps it; a layer may have no MLP.
    """

    mlp: str = "model.layers.{}.mlp"
    down: str = "down_proj"
    up: str = "up_proj"
    prune: Callable[[nn.Module], None] | None = None

    def make_weights_matter(self, model: Any) -> None:
        """Prune the model, and multiply its matrices by 6."""
        if self.prune:
            self.prune(model)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)


_GPT2_MLP = "transformer.h.{}.mlp"
_FEED_FORWARD = "model.layers.{}.feed_forward"

FAMILIES = (
    Family("GPT-2", "gpt2", "GPT2LMHeadModel", _GPT2, _GPT2_MLP, "c_proj", "c_fc"),
    Family(
        "GPT-1",
        "openai-gpt",
        "OpenAIGPTLMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 2},
        _GPT2_MLP,
        "c_proj",
        "c_fc",
    ),
    Family(
        "GPT-Neo",
        "gpt_neo",
        "GPTNeoForCausalLM",
        {
            **USUAL,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": WINDOW,
        },
        _GPT2_MLP,
        "c_proj",
        "c_fc",
    ),
    Family(
        "Pythia",
        "gpt_neox",
        "GPTNeoXForCausalLM",
        USUAL,
        "gpt_neox.layers.{}.mlp",
        "dense_4h_to_h",
        "dense_h_to_4h",
    ),
    Family(
        "GPT-J", "gptj", "GPTJForCausalLM", {**_GPT2, "rotary_dim": 4}, _GPT2_MLP, "fc_out", "fc_in"
    ),
    Family(
        "CodeGen",
        "codegen",
        "CodeGenForCausalLM",
        {**_GPT2, "n_head": 4, "rotary_dim": 4},
        _GPT2_MLP,
        "fc_out",
        "fc_in",
    ),
    Family("StarCoder", "gpt_bigcode", "GPTBigCodeForCausalLM", _GPT2, _GPT2_MLP, "c_proj", "c_fc"),
    Family("Starcoder2", "starcoder2", "Starcoder2ForCausalLM", GROUPED, down="c_proj", up="c_fc"),
    Family("OPT", "opt", "OPTForCausalLM", _OPT, "model.decoder.layers.{}", "fc2", "fc1"),
    Family(
        "XGLM",
        "xglm",
        "XGLMForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "ffn_dim": 24,
            "num_layers": 2,
            "attention_heads": 2,
            "max_position_embeddings": 256,
            **SPECIAL,
        },
        "model.layers.{}",
        "fc2",
        "fc1",
    ),
    Family(
        "BLOOM",
        "bloom",
        "BloomForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2, **SPECIAL},
        _GPT2_MLP,
        "dense_4h_to_h",
        "dense_h_to_4h",
    ),
    Family(
        "Falcon",
        "falcon",
        "FalconForCausalLM",
        {**USUAL, "ffn_hidden_size": 24},
        _GPT2_MLP,
        "dense_4h_to_h",
        "dense_h_to_4h",
    ),
    Family(
        "MPT",
        "mpt",
        "MptForCausalLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "n_layers": 2,
            "n_heads": 2,
            "max_seq_len": 256,
            **SPECIAL,
        },
        "transformer.blocks.{}.ffn",
        needs_transformer_lens_4=True,
    ),
    Family("Phi-2", "phi", "PhiForCausalLM", USUAL, down="fc2", up="fc1"),
    Family("Phi-3", "phi3", "Phi3ForCausalLM", GROUPED, up="gate_up_proj"),
    Family("Llama", "llama", "LlamaForCausalLM", GROUPED),
    Family(
        "Llama, pruned",
        "llama",
        "LlamaForCausalLM",
        {**GROUPED, "num_hidden_layers": 3},
        prune=prune,
    ),
    Family("Mistral", "mistral", "MistralForCausalLM", _WINDOWED),
    Family("Ministral 3", "ministral3", "Ministral3ForCausalLM", _HEADS_OF_8),
    Family("Qwen2", "qwen2", "Qwen2ForCausalLM", GROUPED),
    Family("Qwen3", "qwen3", "Qwen3ForCausalLM", _HEADS_OF_8),
    Family(
        "Qwen3.5",
        "qwen3_5_text",
        "Qwen3_5ForCausalLM",
        {
            **_HEADS_OF_8,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        needs_transformer_lens_4=True,
    ),
    Family("Gemma", "gemma", "GemmaForCausalLM", _HEADS_OF_8),
    Family("Gemma 2", "gemma2", "Gemma2ForCausalLM", _WINDOWED),
    Family("Gemma 3", "gemma3_text", "Gemma3ForCausalLM", _ONE_WINDOWED),
    Family(
        "Gemma 4",
        "gemma4_text",
        "Gemma4ForCausalLM",
        {
            **_ONE_WINDOWED,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
        },
    ),
    Family("VaultGemma", "vaultgemma", "VaultGemmaForCausalLM", _WINDOWED),
    Family("OLMo", "olmo", "OlmoForCausalLM", GROUPED),
    Family("OLMo 2", "olmo2", "Olmo2ForCausalLM", GROUPED),
    Family("OLMo 3", "olmo3", "Olmo3ForCausalLM", {**GROUPED, "sliding_window": WINDOW}),
    Family("SmolLM3", "smollm3", "SmolLM3ForCausalLM", GROUPED),
    Family("Granite", "granite", "GraniteForCausalLM", GROUPED),
    Family("StableLM", "stablelm", "StableLmForCausalLM", GROUPED),
    Family("Cohere", "cohere", "CohereForCausalLM", GROUPED, needs_transformer_lens_4=True),
    Family("Cohere 2", "cohere2", "Cohere2ForCausalLM", _WINDOWED, needs_transformer_lens_4=True),
    Family("GLM", "glm", "GlmForCausalLM", _HEADS_OF_8, up="gate_up_proj"),
    Family("GLM-4", "glm4", "Glm4ForCausalLM", _HEADS_OF_8, up="gate_up_proj"),
    Family("Nemotron", "nemotron", "NemotronForCausalLM", _HEADS_OF_8),
    Family("EXAONE 4", "exaone4", "Exaone4ForCausalLM", _WINDOWED),
    Family("ERNIE 4.5", "ernie4_5", "Ernie4_5ForCausalLM", _HEADS_OF_8),
    Family("Arcee", "arcee", "ArceeForCausalLM", _HEADS_OF_8),
    Family("Apertus", "apertus", "ApertusForCausalLM", GROUPED),
    Family("Seed-OSS", "seed_oss", "SeedOssForCausalLM", _HEADS_OF_8),
    Family("Hunyuan", "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", _HEADS_OF_8),
    Family("Jais 2", "jais2", "Jais2ForCausalLM", _HEADS_OF_8),
    Family("NanoChat", "nanochat", "NanoChatForCausalLM", _HEADS_OF_8, down="fc2", up="fc1"),
    # Its neurons pass a norm of their own before the down projection.
    Family("BitNet", "bitnet", "BitNetForCausalLM", GROUPED, up="ffn_sub_norm"),
    Family(
        "ModernBERT decoder",
        "modernbert-decoder",
        "ModernBertDecoderForCausalLM",
        USUAL,
        down="Wo",
        up="Wi",
    ),
    Family(
        "LFM2",
        "lfm2",
        "Lfm2ForCausalLM",
        {**GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
        _FEED_FORWARD,
        "w2",
        "w3",
    ),
    Family(
        "Falcon-H1",
        "falcon_h1",
        "FalconH1ForCausalLM",
        {
            **_HEADS_OF_8,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
        },
        _FEED_FORWARD,
    ),
    Family("OLMo hybrid", "olmo_hybrid", "OlmoHybridForCausalLM", _HEADS_OF_8),
    Family(
        "Jamba",
        "jamba",
        "JambaForCausalLM",
        {**GROUPED, "num_experts": 1, "attn_layer_period": 2, "attn_layer_offset": 1},
        _FEED_FORWARD,
    ),
    Family(
        "Nemotron-H",
        "nemotron_h",
        "NemotronHForCausalLM",
        {**_HEADS_OF_8, "layers_block_type": ["attention", "mlp"]},
        reachable=False,
    ),
    Family(
        "RecurrentGemma",
        "recurrent_gemma",
        "RecurrentGemmaForCausalLM",
        {**_HEADS_OF_8, "lru_width": 16, "block_types": ["recurrent", "attention"]},
        reachable=False,
    ),
    Family(
        "Mamba",
        "mamba",
        "MambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2},
        reachable=False,
    ),
)
