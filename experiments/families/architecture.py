"""A family of decoders by the configuration of a tiny random model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 64
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
USUAL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    **SPECIAL,
}
GROUPED = {**USUAL, "num_key_value_heads": 1}
"""The usual names of a configuration, with grouped queries; two heads of 8 dimensions."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """One family of models.

    Attributes:
        name: of the family.
        model_type: its name in a configuration.
        architecture: the class that a configuration names.
        shape: the configuration of the tiny model.
        reachable: whether its neurons have hook points; where not, the model must be refused.
        needs_transformer_lens_4: whether the bridge of TransformerLens 3.9 is wrong.
    """

    name: str
    model_type: str
    architecture: str
    shape: Mapping[str, Any]
    reachable: bool = field(default=True, kw_only=True)
    needs_transformer_lens_4: bool = field(default=False, kw_only=True)

    def __str__(self) -> str:
        """Its name, which tests carry."""
        return self.name

    def random(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """The Hugging Face model; the same seed gives the same weights."""
        config = AutoConfig.for_model(self.model_type, **self.shape)
        config.architectures = [self.architecture]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            self.make_weights_matter(model)
        return model.eval()

    def make_weights_matter(self, model: Any) -> None:
        """Enlarge initial weights, which are so small that the tokens hardly matter."""
        raise NotImplementedError
