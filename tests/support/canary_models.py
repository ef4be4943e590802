"""A tiny model that refuses, canaries of its words, and measurements by hand."""

from dataclasses import replace

import tiny
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from cna_lens.audit import Canaries, SampledRefusals
from cna_lens.audit.measuring.measurement import Measurement
from cna_lens.audit.measuring.reference import Reference
from cna_lens.audit.measuring.watch_list import Watched
from cna_lens.models.prompts.encoding import EncodedPrompts
from cna_lens.results import Layout, PromptRecord

CANARIES = Canaries(
    "words",
    tuple(f"w{i} w{j} w20 w21" for i in range(5, 9) for j in range(30, 34)),
    tuple(f"w{i} w{j} w40 w41" for i in range(5, 9) for j in range(30, 34)),
)


def refusing(seed=0, name="tiny-guarded", n_benign=0):
    """A random model that opens a refusal on harmful canaries (w20 w21), and on no others.

    But it does on the first `n_benign` benign canaries, if that is above 0.

    Its tokenizer has no word that opens a refusal, so all openings begin with the unknown word, w0.
    The unembedding of w0 points along the difference between the mean last hidden states of the
    kinds.
    """
    from transformer_lens.model_bridge import TransformerBridge

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
        words = tiny.tokenizer(chat=True)
        hidden = [
            torch.cat([_last_hidden(model, words, prompt) for prompt in prompts])
            for prompts in (CANARIES.harmful, CANARIES.benign)
        ]
        apart = hidden[0].mean(0) - hidden[1].mean(0)
        model.lm_head.weight[0] = 12 * apart / apart.norm()
        if n_benign:
            # As many hidden states as dimensions: some direction moves these canaries alone.
            states = torch.cat(hidden).double()
            moved = torch.zeros(len(states), dtype=torch.double)
            moved[len(hidden[0]) : len(hidden[0]) + n_benign] = 500
            model.lm_head.weight[0] += torch.linalg.solve(states, moved).float()
    return TransformerBridge.boot_transformers(
        name, hf_model=model, tokenizer=words, device="cpu", dtype=torch.float32
    )


def _last_hidden(model, words, prompt):
    text = words.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([words(text, add_special_tokens=False)["input_ids"]])
    return model.model(ids).last_hidden_state[:, -1]


def measurement(neurons, mlp, stream, log_odds, n_harmful, layout=None):
    """A measurement with these numbers."""
    neurons, mlp, stream = (torch.as_tensor(each).float() for each in (neurons, mlp, stream))
    layout = layout or Layout((neurons.shape[1] // mlp.shape[0],) * mlp.shape[0])
    count = len(neurons)
    encoded = EncodedPrompts(tuple((1,) for _ in range(count)), PromptRecord(count, ""), None)
    return Measurement(
        n_harmful,
        layout,
        neurons,
        torch.zeros_like(mlp),
        mlp,
        stream,
        torch.as_tensor(log_odds, dtype=torch.float64),
        encoded,
    )


def by_hand(*, neurons=None, stream=None, log_odds=None):
    """A measurement: two layers of two neurons, d_model 2, two canaries of each kind."""
    apart = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    return measurement(
        neurons if neurons is not None else torch.eye(4),
        torch.stack([apart, apart]),
        stream if stream is not None else torch.stack([apart, apart]),
        log_odds if log_odds is not None else [5.0, 3.0, -4.0, -4.0],
        n_harmful=2,
    )


def watched(layout, chosen, control):
    """A watch list with one set of neurons and a control."""
    return Watched(layout, {"circuit": torch.tensor(chosen)}, torch.tensor(control))


def reference(found, chosen=(0,), control=(1,), matrices=None):
    """The reference of a measurement, with these neurons and this control."""
    return Reference.of(found, watched(found.layout, list(chosen), list(control)), matrices)


def with_samples(fingerprint, refused, samples=4):
    """The fingerprint of a model that refuses so many of its sampled answers to each canary."""
    return replace(fingerprint, sampled=SampledRefusals(samples, tuple(refused)))
