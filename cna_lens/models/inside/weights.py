"""The identity of a model's weights."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cna_lens.models.hooked_model import HookedModel
from cna_lens.results.neurons import AnyNeuron

_BRIDGE_INFIX = "._original_component"


def weights_hash(model: HookedModel | nn.Module) -> str:
    """SHA-256 over the sorted names, dtypes, shapes and bytes of a model's parameters.

    Takes about 0.3 s for 135 million parameters in float32, and scales with their bytes. Loading
    the same weights again in the same way gives the same hash. Through a bridge it is that of the
    Hugging Face model alone, unless the bridge splits fused matrices (GPT-2, Phi-3); a
    HookedTransformer stores weights under other names and in other shapes.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(named_weights(model).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        for part in flat.split(1 << 28):
            digest.update(part.cpu().numpy().data)
    return digest.hexdigest()


def named_weights(model: HookedModel | nn.Module) -> dict[str, Tensor]:
    """A model's parameters, by the names of the Hugging Face model where a bridge wraps one."""
    module: nn.Module = getattr(model, "original_model", None) or cast("nn.Module", model)
    weights: dict[str, Tensor] = {
        name.replace(_BRIDGE_INFIX, ""): tensor for name, tensor in module.named_parameters()
    }
    # TransformerLens 3.9 gives an LM head without a bias one of zeros, which computes the same.
    added = weights.get("lm_head.bias")
    if added is not None and not bool(added.any()):
        del weights["lm_head.bias"]
    return weights


# Models whose weights a context has scaled, and the neurons, for as long as it lasts.
_edits: WeakKeyDictionary[nn.Module, list[frozenset[AnyNeuron]]] = WeakKeyDictionary()


@contextmanager
def editing(model: HookedModel, neurons: Iterable[AnyNeuron]) -> Generator[None]:
    """Note that the weights of these neurons are scaled, for the length of the context."""
    edits = _edits.setdefault(cast("nn.Module", model), [])
    edits.append(frozenset(neurons))
    try:
        yield
    finally:
        edits.pop()


def edited_neurons(model: HookedModel) -> frozenset[AnyNeuron]:
    """The neurons that some surrounding context has scaled by their weights."""
    return frozenset[AnyNeuron]().union(*_edits.get(cast("nn.Module", model), []))
