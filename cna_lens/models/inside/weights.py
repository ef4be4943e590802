"""A model's weights: their names and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from cna_lens.errors import ModelError
from cna_lens.models.hooked_model import HookedModel

_BRIDGE_INFIX = "._original_component"


def weights_hash(model: HookedModel | nn.Module) -> str:
    """Compute SHA-256 over the sorted names, dtypes, shapes and bytes of a model's parameters.

    Of quantised layers, all that their state holds counts, such as the scales of GPTQ's layers.
    Takes about 0.3 s for 135 million parameters in float32, and scales with their bytes. The same
    weights, loaded in the same way, have the same hash. A bridge has the hash of its Hugging Face
    model, unless it splits fused matrices (GPT-2, Phi-3). A HookedTransformer has another hash: it
    stores weights under other names and in other shapes. Weights that Accelerate has offloaded are
    loaded for it, a module at a time.

    Raises:
        ModelError: a weight is offloaded in another way, so its numbers cannot be read.
    """
    digest = hashlib.sha256()
    for name, tensor in loaded_weights(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        for part in flat.split(1 << 28):
            digest.update(part.cpu().numpy().data)
    return digest.hexdigest()


def loaded_weights(model: HookedModel | nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a model's weights by name, in the order of their names, each with its numbers.

    Raises:
        ModelError: a weight is offloaded, and Accelerate cannot load it.
    """
    weights = named_weights(model)
    owners: dict[int, tuple[nn.Module, str]] = {}
    if any(tensor.is_meta for tensor in weights.values()):
        owners = {
            id(tensor): (module, name)
            for module in _module(model).modules()
            for name, tensor in chain(
                module.named_parameters(recurse=False), module.named_buffers(recurse=False)
            )
        }
    for name, tensor in sorted(weights.items()):
        if not tensor.is_meta:
            yield name, tensor
            continue
        module, own_name = owners[id(tensor)]
        with _loaded(module):
            if (there := getattr(module, own_name)).is_meta:
                raise ModelError(
                    f"{name} is offloaded, so its numbers cannot be read here; load the model "
                    "whole, or let Accelerate offload it (device_map=...)"
                )
            yield name, there


@contextmanager
def _loaded(module: nn.Module) -> Generator[None]:
    """Let Accelerate load a module's offloaded parameters, where it has offloaded them."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield


def named_weights(model: HookedModel | nn.Module) -> dict[str, Tensor]:
    """Give a model's weights, by the names of the Hugging Face model inside a bridge.

    They are its parameters, and the further entries in the state of quantised layers.
    """
    module = _module(model)
    weights: dict[str, Tensor] = {
        name.replace(_BRIDGE_INFIX, ""): tensor
        for name, tensor in chain(module.named_parameters(), _quantised(module))
    }
    # TransformerLens 3.9 adds a bias of zeros to an LM head without one, which changes no logit.
    added = weights.get("lm_head.bias")
    if added is not None and not added.is_meta and not bool(added.any()):
        del weights["lm_head.bias"]
    return weights


def _quantised(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what the state of quantised layers holds beside parameters: codes, scales, zero points.

    A layer is quantised if a matrix of it has whole numbers, or numbers of one byte. The buffers of
    others are left out, since most follow from the configuration, such as the frequencies of rotary
    embeddings. A mask may have whole numbers too, but an attention has parts of its own, and a
    quantised layer has none.
    """
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        held = chain(own.values(), module.buffers(recurse=False))
        if any(module.children()) or not any(map(_is_coded, held)):
            continue
        entries = cast("dict[str, object]", module.state_dict(keep_vars=True))
        for name, entry in entries.items():
            if name not in own and isinstance(entry, Tensor):
                yield f"{path}.{name}".removeprefix("."), entry


def _is_coded(tensor: Tensor) -> bool:
    if tensor.ndim < 2 or tensor.dtype == torch.bool:
        return False
    return not tensor.is_floating_point() or tensor.element_size() == 1


def _module(model: HookedModel | nn.Module) -> nn.Module:
    return getattr(model, "original_model", None) or cast("nn.Module", model)
