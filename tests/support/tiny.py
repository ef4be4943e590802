"""Random models of a few families, small enough to boot in milliseconds, and their tokenizer."""

import atexit
import shutil
import tempfile
from functools import cache, partial
from types import SimpleNamespace

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from cna_lens.models.trial.trial import tried

FAMILIES = ("llama", "qwen2", "gemma3", "gpt2", "phi3")
VOCABULARY = 64
WIDTH = 24
TEMPLATE = (
    "w10 w11 w12 w13 w14 w15 "
    "{% for m in messages %}w3 {{ m['role'] }} {{ m['content'] }} w2 {% endfor %}"
    "{% if add_generation_prompt %}w3 assistant{% endif %}"
)


def tokenizer(chat=False, more_words=()):
    """Words w0 to w61 and two roles; w1 begins a text, w2 ends a turn."""
    words = {f"w{i}": i for i in range(VOCABULARY - 2)} | {"user": 62, "assistant": 63}
    words |= {word: VOCABULARY + i for i, word in enumerate(more_words)}
    raw = Tokenizer(WordLevel(words, unk_token="w0"))
    raw.pre_tokenizer = WhitespaceSplit()
    # Without `single_word`, special tokens are found inside words: "w10" would be w1 and w0.
    unknown, begins, ends = (AddedToken(f"w{i}", single_word=True) for i in range(3))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token=unknown,
        bos_token=begins,
        eos_token=ends,
        pad_token=unknown,
    )
    if chat:
        fast.chat_template = TEMPLATE
    # TransformerLens loads a tokenizer again, from the folder it came from.
    folder = tempfile.mkdtemp(prefix="cna-lens-tokenizer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    fast.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def _config(family, d_mlp=WIDTH):
    common = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": d_mlp,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    grouped = common | {"num_key_value_heads": 1}
    if family == "llama":
        return LlamaConfig(**grouped)
    if family == "qwen2":
        return Qwen2Config(**grouped)
    if family == "gemma3":
        return Gemma3TextConfig(**grouped, head_dim=8, sliding_window=8, sliding_window_pattern=2)
    if family == "phi3":
        return Phi3Config(**grouped)
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_inner=d_mlp,
        n_layer=2,
        n_head=2,
        n_positions=256,
        bos_token_id=1,
        eos_token_id=2,
    )


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "phi3": "Phi3ForCausalLM",
}


def hugging_face(family, seed=0, dtype=torch.float32, d_mlp=WIDTH):
    """The Hugging Face model; the same seed gives the same weights."""
    config = _config(family, d_mlp)
    config.architectures = [ARCHITECTURES[family]]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        make_weights_matter(model)
    return model.eval()


@cache
def plain(family):
    """The Hugging Face model, made once: a reference whose weights no test changes."""
    return hugging_face(family).requires_grad_(False)


def make_weights_matter(model):
    """Enlarge the initial weights, which are so small that the tokens hardly matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)


def bridge(family, chat=False, seed=0, dtype=torch.float32, name=None):
    """The model with TransformerLens's hooks, tried out as after its first use."""
    model = untried_bridge(family, chat, seed, dtype, name)
    tried(model)
    return model


def untried_bridge(family, chat=False, seed=0, dtype=torch.float32, name=None, d_mlp=WIDTH):
    """The model with TransformerLens's hooks, as a user has just loaded it."""
    return boot(hugging_face(family, seed, dtype, d_mlp), chat, dtype, name or f"tiny-{family}")


def boot(hf, chat=False, dtype=torch.float32, name=None, with_tokenizer=None):
    """A bridge around a model whose weights a test has chosen."""
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        name or f"tiny-{hf.config.model_type}",
        hf_model=hf,
        tokenizer=with_tokenizer or tokenizer(chat),
        device="cpu",
        dtype=dtype,
    )


def in_double(model):
    """The model with norms in float64; Transformers computes them in float32 for any dtype."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_double_norm, module)
    return model


def _double_norm(module, x):
    eps = getattr(module, "variance_epsilon", None) or module.eps
    weight = 1 + module.weight if "Gemma" in type(module).__name__ else module.weight
    return weight * x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt()


@cache
def down_projections(model):
    """Each layer's down projection, found without cna_lens."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    return [
        block.mlp.c_proj if hasattr(block.mlp, "c_proj") else block.mlp.down_proj
        for block in blocks
    ]


class Autoencoder(torch.nn.Module):
    """An autoencoder with the attributes of SAELens's: linear, ReLU, and linear back."""

    def __init__(self, hook_name, w_enc, w_dec, b_enc=0.0, b_dec=0.0):
        super().__init__()
        weights = {"w_enc": w_enc, "w_dec": w_dec, "b_enc": b_enc, "b_dec": b_dec}
        for name, weight in weights.items():
            self.register_buffer(name, torch.as_tensor(weight))
        d_in, d_sae = w_enc.shape
        metadata = SimpleNamespace(hook_name=hook_name)
        self.cfg = SimpleNamespace(d_in=d_in, d_sae=d_sae, metadata=metadata)

    def encode(self, x):
        return torch.relu((x.to(self.w_enc.dtype) - self.b_dec) @ self.w_enc + self.b_enc)

    def decode(self, features):
        return features @ self.w_dec + self.b_dec


def autoencoder(hook_name="blocks.1.hook_resid_post", d_in=16, d_sae=40, seed=0):
    """A random autoencoder, which reconstructs badly."""
    generator = torch.Generator().manual_seed(seed)
    w_enc, w_dec, b_enc, b_dec = (
        torch.randn(shape, generator=generator)
        for shape in ((d_in, d_sae), (d_sae, d_in), (d_sae,), (d_in,))
    )
    return Autoencoder(hook_name, w_enc, w_dec / 4, b_enc, b_dec)


def refuse_tree_masks(model):
    """Let a model take no mask of several prompts in one row."""
    forward = model.original_model.forward

    def refusing(*args, attention_mask=None, **kwargs):
        if attention_mask is not None and attention_mask.ndim == 4:
            raise ValueError("no such mask")
        return forward(*args, attention_mask=attention_mask, **kwargs)

    model.original_model.forward = refusing
