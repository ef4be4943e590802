"""How many tokens fit into one forward pass, and the loop that runs prompts in such batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import nn
from tqdm.auto import tqdm

from cna_lens.errors import CnaLensWarning
from cna_lens.models.free_memory import free_memory
from cna_lens.models.hooked_model import HookedModel, input_device
from cna_lens.models.inside.paged_weights import PagedWeights, paged_weights
from cna_lens.models.running.batching import BatchSize, length_buckets

Result = TypeVar("Result")

CPU_TOKENS = 768
"""Larger batches are slower on a CPU: their activations no longer fit the caches."""

GPU_TOKENS = 32_768
"""Larger batches gain nothing on a GPU: its matrix units are busy."""

CPU_ANSWERS = 64
"""Answers share one read of the weights for each step; more of them gain little on a CPU."""

GPU_ANSWERS = 256
"""From about this many answers on, reading the weights no longer limits a step on a GPU."""

CPU_PASS = 16
"""A pass over one token takes as long as 16 more tokens of a batch: it reads all weights."""

GPU_PASS = 1024
"""The same on a GPU, where a pass also waits for Python; an estimate, not measured."""

CPU_PREDICTIONS = 1024
"""More distributions over the vocabulary at once only fill the memory of a CPU."""

GPU_PREDICTIONS = 16_384


def token_budget(model: HookedModel, longest: int) -> int:
    """Tokens of one padded batch that fit half of the free memory and run fast.

    Args:
        model: the model.
        longest: tokens of the longest prompt, with its prefix.
    """
    return _tokens_that_fit(model, longest, bytes_per_token(model, longest))


def cost_of_passes(model: HookedModel, longest: int) -> tuple[int, int]:
    """Tokens that could be computed in the time that any pass takes, and the budget of a pass.

    Args:
        model: the model.
        longest: tokens of the longest prompt, with its prefix.
    """
    cost = CPU_PASS if input_device(model).type == "cpu" else GPU_PASS
    return cost, token_budget(model, longest)


def gradient_token_budget(model: HookedModel, longest: int) -> int:
    """Tokens of one padded batch whose graph for the backward pass fits half of the free memory.

    The graph keeps every block, and the activations and gradients that are read: twice the numbers
    of a forward pass.

    Args:
        model: the model.
        longest: tokens of the longest prompt, with its prefix.
    """
    per_block = bytes_per_token(model, longest, copies=2)
    return _tokens_that_fit(model, longest, int(model.cfg.n_layers) * per_block)


def bytes_per_token(model: HookedModel, longest: int, copies: int = 1) -> int:
    """Bytes that one block holds for each token of a batch while it runs.

    Counts the hidden states, both halves of the MLP, and the attention scores of `longest`
    positions, which the bridge computes in full. `copies` multiplies all but the scores.
    """
    cfg = model.cfg
    floats = 8 * int(cfg.d_model) + 4 * int(cfg.d_mlp or 4 * cfg.d_model)
    scores = 3 * int(cfg.n_heads) * longest
    return copies * _itemsize(model) * floats + 4 * scores


def answers_at_once(model: HookedModel, longest: int) -> int:
    """Answers that can be generated together, by the memory of their keys and values.

    Finished answers leave the batch through a copy of the cache, so the cache counts twice.

    Args:
        model: the model.
        longest: tokens of the longest prompt and its answer.
    """
    per_answer = 2 * cache_bytes_per_token(model) * longest
    return max(1, _that_fit(model, per_answer, CPU_ANSWERS, GPU_ANSWERS))


def cache_bytes_per_token(model: HookedModel) -> int:
    """Bytes of one token's keys and values in all layers."""
    cfg = model.cfg
    heads = int(getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
    return _itemsize(model) * 2 * int(cfg.n_layers) * heads * int(cfg.d_head)


def predictions_at_once(model: HookedModel) -> int:
    """Next-token distributions that fit a quarter of the free memory, with their copies."""
    per_prediction = 2 * 4 * 3 * int(model.cfg.d_vocab)
    return max(1, _that_fit(model, per_prediction, CPU_PREDICTIONS, GPU_PREDICTIONS))


def _tokens_that_fit(model: HookedModel, longest: int, size: int) -> int:
    return max(longest, _that_fit(model, size, CPU_TOKENS, GPU_TOKENS))


def _that_fit(model: HookedModel, size: int, on_cpu: int, on_gpu: int) -> int:
    """Count things of `size` bytes that fit half of the free memory and run fast.

    Where weights are read from disk, things that run together share one reading, so as many run
    together as on a GPU; and the memory that keeps weights is not free.
    """
    device = input_device(model)
    paged = paged_weights(model)
    kept = 0 if paged is None or device.type != "cpu" else paged.resident_bytes
    fits = max(0, _free_bytes(device) - kept) // 2 // size
    return min(fits, on_cpu if device.type == "cpu" and paged is None else on_gpu)


def _itemsize(model: HookedModel) -> int:
    return next(cast("nn.Module", model).parameters()).element_size()


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()


def run_in_batches(
    model: HookedModel,
    lengths: Sequence[int],
    run: Callable[[list[int]], Result],
    *,
    desc: str,
    batch_size: BatchSize = "auto",
    progress: bool = False,
    prefix_length: int = 0,
    budget: Callable[[HookedModel, int], int] = token_budget,
    counts: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], Result]]:
    """Run rows of tokens in batches of like length, see `run_in_halves`.

    Args:
        model: the model.
        lengths: tokens of each row, without a shared prefix.
        run: called with the places of a batch's rows.
        desc: label of the progress bar.
        batch_size: rows of each batch; "auto" fits them to the budget.
        progress: show a progress bar that counts prompts.
        prefix_length: tokens of the shared prefix.
        budget: gives the tokens of one padded batch, from the model and its longest row.
        counts: prompts in each row, one each by default.
    """
    if batch_size == "auto":
        longest = prefix_length + max(lengths)
        batches = length_buckets(lengths, token_budget=budget(model, longest))
    else:
        batches = length_buckets(lengths, max_prompts=batch_size)
    counts = [1] * len(lengths) if counts is None else counts
    if progress and (paged := paged_weights(model)) is not None:
        with _read(paged, desc, len(batches)):
            yield from run_in_halves(batches, run)
        return
    with tqdm(total=sum(counts), desc=desc, unit="prompt", disable=not progress) as bar:
        for batch, result in run_in_halves(batches, run):
            yield batch, result
            bar.update(sum(counts[row] for row in batch))


@contextmanager
def _read(paged: PagedWeights, desc: str, passes: int) -> Generator[None]:
    """Show a bar of the weights that are read."""
    total = passes * paged.n_bytes
    bar = tqdm(total=total, desc=desc, unit="B", unit_scale=True, unit_divisor=1024)
    with bar, paged.watched(bar.update):
        yield


def run_in_halves(
    batches: Sequence[list[int]], run: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Yield each batch with its result; halve a batch that does not fit, and those after it.

    No finished batch runs again. A batch of one that does not fit raises.
    """
    waiting = list(batches)
    while waiting:
        batch = waiting.pop(0)
        try:
            result = run(batch)
        except Exception as error:
            waiting = halved(error, len(batch), [batch, *waiting])
            continue
        yield batch, result


def halved(error: Exception, size: int, batches: Sequence[list[int]]) -> list[list[int]]:
    """Cut every batch in two, after a batch of this size ran out of memory.

    Raises:
        Exception: the error itself, where memory did not run out or the batch has one row.

    Warns:
        CnaLensWarning: names the batch size that fits at once.
    """
    if not _is_out_of_memory(error) or size == 1:
        raise error
    warnings.warn(
        f"a batch of {size} did not fit the memory, so that it and those after it run in halves; "
        f"batch_size={max(1, size // 2)} spares you the attempt",
        CnaLensWarning,
        stacklevel=4,
    )
    middles = [(len(batch) + 1) // 2 for batch in batches]
    parts = zip(batches, middles, strict=True)
    return [half for batch, at in parts for half in (batch[:at], batch[at:]) if half]


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on a GPU or in the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
