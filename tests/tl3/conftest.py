"""Tiny models as a HookedTransformer, which TransformerLens 3.9 still has."""

import pytest
import tiny
from transformer_lens import HookedTransformer, HookedTransformerConfig

LLAMA = {
    "gated_mlp": True,
    "act_fn": "silu",
    "normalization_type": "RMS",
    "final_rms": True,
    "positional_embedding_type": "rotary",
    "rotary_dim": 8,
}


def pytest_itemcollected(item):
    item.add_marker(pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated"))


@pytest.fixture(scope="session")
def hooked_transformer():
    """A function that makes a model with random weights, a Llama unless changed."""

    def made(chat=False, **changes):
        shape = {"n_layers": 2, "d_model": 16, "n_ctx": 64, "d_head": 8, "n_heads": 2}
        shape |= {"d_mlp": tiny.WIDTH, "d_vocab": tiny.VOCABULARY, "device": "cpu", "seed": 0}
        shape |= {"initializer_range": 0.5, "model_name": "tiny-hooked"}
        config = HookedTransformerConfig(**{**shape, **LLAMA, **changes})
        return HookedTransformer(config, tokenizer=tiny.tokenizer(chat=chat)).eval()

    return made


@pytest.fixture(scope="module")
def hooked(hooked_transformer):
    return hooked_transformer(chat=True)
