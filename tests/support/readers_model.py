"""A tiny model that replaces each model a page names, and knows the words of its prompts."""

from functools import cache

import tiny
import torch
from transformers import LlamaConfig

import cna_lens
import cna_lens.audit

N_LAYERS = 6


def packaged_prompts():
    for name in cna_lens.models.prompts.sets.PURPOSES:
        whole = cna_lens.models.prompts.sets.prompt_set(name)
        yield from (*whole.positive, *whole.negative)
    yield from cna_lens.audit.Canaries.packaged().prompts


@cache
def bridge(also_knows=(), n_layers=N_LAYERS):
    """A bridge whose tokenizer has the words of the packaged prompts and of these texts."""
    model, tokenizer = hugging_face(also_knows, n_layers)
    return tiny.boot(model, name="readers-model", with_tokenizer=tokenizer)


def hugging_face(also_knows=(), n_layers=N_LAYERS):
    """Its Hugging Face model, and the tokenizer."""
    from transformers import AutoModelForCausalLM

    texts = (*packaged_prompts(), *also_knows)
    words = {word for text in texts for word in text.split()} - {"user", "assistant"}
    tokenizer = tiny.tokenizer(chat=True, more_words=sorted(words))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        tiny.make_weights_matter(model)
    return model.eval(), tokenizer
