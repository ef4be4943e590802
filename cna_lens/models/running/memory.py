"""How many tokens fit into one forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

import psutil
import torch
from torch import nn

from cna_lens.errors import CnaLensWarning
from cna_lens.models.hooked_model import HookedModel, input_device
from cna_lens.models.running.batching import halves

Result = TypeVar("Result")

CPU_TOKENS = 768
"""On a CPU larger batches are slower: their activations no longer fit the caches."""

GPU_TOKENS = 32_768
"""On a GPU larger batches gain nothing: the matrix units are busy."""

CPU_ANSWERS = 64
"""On a CPU the weights are read once for each step, however many answers share it."""

GPU_ANSWERS = 256
"""On a GPU steps stop being bound by reading the weights at about this many answers."""

CPU_PREDICTIONS = 1024
"""On a CPU more distributions over the vocabulary at once only fill memory."""

GPU_PREDICTIONS = 16_384


def token_budget(model: HookedModel, longest: int) -> int:
    """Tokens of one padded batch that fit half of the free memory, and that run fast.

    Counts, for each token, the hidden states and both halves of the MLP that one block holds at a
    time, and the attention scores of `longest` positions, which the bridge computes in full.

    Args:
        model: the model.
        longest: tokens of the longest prompt, with its prefix.
    """
    device = input_device(model)
    fits = _free_bytes(device) // 2 // bytes_per_token(model, longest)
    return max(longest, min(fits, CPU_TOKENS if device.type == "cpu" else GPU_TOKENS))


def bytes_per_token(model: HookedModel, longest: int) -> int:
    """What one block holds at a time for each token of a batch, see `token_budget`."""
    cfg = model.cfg
    floats = 8 * int(cfg.d_model) + 4 * int(cfg.d_mlp or 4 * cfg.d_model)
    scores = 3 * int(cfg.n_heads) * longest
    return _itemsize(model) * floats + 4 * scores


def gradient_token_budget(model: HookedModel, longest: int) -> int:
    """Tokens of one padded batch whose graph, kept for the backward pass, fits half the memory.

    Counts, for each token and block, the hidden states, both halves of the MLP with their
    products, the activations and gradients that are read, and the attention scores of `longest`
    positions.

    Args:
        model: the model.
        longest: tokens of the longest prompt, with its prefix.
    """
    device = input_device(model)
    cfg = model.cfg
    floats = 16 * int(cfg.d_model) + 8 * int(cfg.d_mlp or 4 * cfg.d_model)
    scores = 3 * int(cfg.n_heads) * longest
    per_token = int(cfg.n_layers) * (_itemsize(model) * floats + 4 * scores)
    fits = _free_bytes(device) // 2 // per_token
    return max(longest, min(fits, CPU_TOKENS if device.type == "cpu" else GPU_TOKENS))


def answers_at_once(model: HookedModel, longest: int) -> int:
    """Answers that can be generated together, by the memory of their keys and values.

    Finished answers leave the batch by a copy of the cache, so that it is counted twice.

    Args:
        model: the model.
        longest: tokens of the longest prompt and its answer.
    """
    device = input_device(model)
    fits = _free_bytes(device) // 2 // (2 * cache_bytes_per_token(model) * longest)
    return max(1, min(fits, CPU_ANSWERS if device.type == "cpu" else GPU_ANSWERS))


def cache_bytes_per_token(model: HookedModel) -> int:
    """Keys and values of one token in all layers."""
    cfg = model.cfg
    heads = int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
    return _itemsize(model) * 2 * int(cfg.n_layers) * heads * int(cfg.d_head)


def _itemsize(model: HookedModel) -> int:
    return next(cast("nn.Module", model).parameters()).element_size()


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def predictions_at_once(model: HookedModel) -> int:
    """Next-token distributions that fit a quarter of the free memory, with their copies."""
    device = input_device(model)
    fits = _free_bytes(device) // 4 // (4 * 3 * int(model.cfg.d_vocab))
    return max(1, min(fits, CPU_PREDICTIONS if device.type == "cpu" else GPU_PREDICTIONS))


def run_in_halves(
    batches: Sequence[list[int]], run: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Each batch with its result; one that does not fit is halved, and so are those after it.

    Nothing that was finished is done again. A batch of one that does not fit raises.
    """
    waiting = list(batches)
    while waiting:
        batch = waiting.pop(0)
        try:
            result = run(batch)
        except Exception as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            waiting = halved(len(batch), [batch, *waiting])
            continue
        yield batch, result


def halved(size: int, batches: Sequence[list[int]]) -> list[list[int]]:
    """Every batch cut in two, for when one of this size did not fit the memory.

    Warns:
        CnaLensWarning: what was cut, and how to be spared it.
    """
    warnings.warn(
        f"a batch of {size} did not fit the memory, so that it and those after it run in halves; "
        f"batch_size={max(1, size // 2)} spares you the attempt",
        CnaLensWarning,
        stacklevel=4,
    )
    return [half for batch in batches for half in halves(batch)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
