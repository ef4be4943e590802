"""A pruned Llama: one layer has no MLP, another has an MLP of another width."""

from __future__ import annotations

import copy
from typing import Any, cast

from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

WITHOUT_MLP = 1
WIDER = 2
WIDTH = 40


class _AttentionOnly(LlamaDecoderLayer):
    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)
        return hidden_states + attended


def prune(model: nn.Module) -> None:
    """Remove the MLP of one layer, and give another layer a wider one."""
    model = cast("Any", model)
    layers = model.model.layers
    layers[WITHOUT_MLP].__class__ = _AttentionOnly
    del layers[WITHOUT_MLP].mlp
    wide = copy.deepcopy(model.config)
    wide.intermediate_size = WIDTH
    layers[WIDER].mlp = LlamaMLP(wide)


def allow_layers_without_mlp(adapter: Any) -> None:
    """Make TransformerLens skip a missing MLP instead of raising an error."""
    adapter.component_mapping["blocks"].submodules["mlp"].optional = True
