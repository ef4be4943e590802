"""A tiny model that reasons: its next token depends on the last one alone, by a table."""

import tiny
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

# Heads of an even width need an even number of words.
WORDS = ("<think>", "</think>", "[THINK]", "[/THINK]", "Sorry", "\n", "Yes", "No")
OPEN, CLOSE, SPECIAL_OPEN, SPECIAL_CLOSE, SORRY, NEW_LINE = range(64, 70)
END = 2
# After "w5" it reasons between special tokens, after "w8" between plain ones, and after "w7" not at
# all. Reasoning that comes to "w53" goes round and round, and "w55" ends the turn inside of it.
NEXT = {
    5: SPECIAL_OPEN,
    SPECIAL_OPEN: 50,
    50: 51,
    51: SPECIAL_CLOSE,
    SPECIAL_CLOSE: 20,
    20: 22,
    22: END,
    8: OPEN,
    OPEN: 52,
    52: CLOSE,
    CLOSE: 21,
    21: END,
    7: 30,
    30: 31,
    31: END,
    53: 54,
    54: 53,
    55: END,
    # Markers of its own, which no table lists.
    9: 40,
    40: 52,
    41: 23,
    23: END,
    56: 57,
    57: 41,
    10: 42,
    42: 56,
}
# What a user says and no more, so that each prompt ends with a word of its own.
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    "{% if forced is defined and add_generation_prompt %}<think>{% endif %}"
)


def reasoner(following=None):
    """The model, with a chat template whose option `forced` opens the reasoning.

    Args:
        following: the next token of each token, by default NEXT.
    """
    size = tiny.VOCABULARY + len(WORDS)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=tiny.WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=END,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        hf.model.embed_tokens.weight.copy_(torch.eye(size))
        hf.lm_head.weight.zero_()
        for last, token in (following or NEXT).items():
            hf.lm_head.weight[token, last] = 1
        for layer in hf.model.layers:
            # Attention moves activations, so that they tell the whole prompt, and little else.
            layer.self_attn.o_proj.weight.mul_(0.5)
            layer.mlp.down_proj.weight.mul_(0.5)
    model = tiny.boot(hf, name="tiny-reasoner", with_tokenizer=tiny.tokenizer(more_words=WORDS))
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    model.tokenizer.chat_template = TEMPLATE
    return model
