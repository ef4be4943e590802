"""Estimates of memory, cards and time for a model, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cna_lens.errors import CnaLensError, InputError, ModelError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.inside.paged_weights import RESIDENT, blocks_that_stay
from cna_lens.models.inside.projections import layout_of
from cna_lens.models.inside.sites import sparse_sites
from cna_lens.models.loading.load import read_config
from cna_lens.models.running.batching import is_whole
from cna_lens.models.running.forward import sliding_window
from cna_lens.models.running.memory import (
    CPU_ANSWERS,
    CPU_TOKENS,
    GPU_ANSWERS,
    GPU_TOKENS,
    bytes_per_token,
    cache_bytes_per_token,
)
from cna_lens.models.trial.trial import obstacle_by_shapes, without_a_cache
from cna_lens.results.scores import circuit_size

RESERVE = 0.1
"""The share of a card for its driver, libraries, and the gaps between tensors."""

Kind = Literal["cuda", "cpu"]

_VECTORS = 8
"""Numbers in float64 for each neuron: mean and deviations of two sets, and of a merge."""


@dataclass(frozen=True)
class Requirements:
    """The resources for finding a circuit in a model and generating answers; sizes are in bytes.

    Attributes:
        model: its name.
        dtype: precision of weights and activations.
        device: the kind of device it will run on.
        n_parameters: parameters of the Hugging Face model.
        n_neurons: MLP neurons in all layers.
        k: neurons of a circuit of 0.1 %.
        weights: all parameters, with a bridge's copies of fused matrices.
        embedding: the weights that are looked up before the first block.
        blocks: the weights of each block.
        statistics: the sums over prompts.
        batch: the activations of one batch while one block runs, and those that discovery reads.
        cache: keys and values of prompts and answers, and of one layer again while it grows.
        decoding: the maximum of what generation holds beside the cache: one pass, while it reads
            prompts and the answers' part of the cache is still empty, or the logits of a step.
        decoding_from_disk: the same for a model that is read from the disk in each pass, which
            reads all prompts of a batch in one.
        flops: floating-point operations of discovery.
        file_dtype: precision of the model's files; None where the configuration does not say.
        slower: the slow way that the installed libraries force, and why; None where shapes alone
            show none. `load_model` tries the model out.
    """

    model: str
    dtype: str
    device: Kind
    n_parameters: int
    n_neurons: int
    k: int
    weights: int
    embedding: int
    blocks: tuple[int, ...]
    statistics: int
    batch: int
    cache: int
    decoding: int
    decoding_from_disk: int
    flops: float
    file_dtype: str | None = None
    slower: str | None = None

    @property
    def discovery(self) -> int:
        """Memory to find a circuit."""
        return self.weights + self.statistics + self.batch

    @property
    def generation(self) -> int:
        """Memory to generate answers."""
        return self.weights + self.cache + self.decoding

    def cards(self, size: int) -> int | None:
        """Count the cards of this many bytes for discovery and generation, each block on one card.

        None where a card cannot hold one block and its computation.
        """
        free = int(size * (1 - RESERVE)) - max(self.statistics + self.batch, self.decoding)
        last = self.weights - self.embedding - sum(self.blocks)
        cached = self.cache // max(1, len(self.blocks))
        parts = [self.embedding, *(block + cached for block in self.blocks), last]
        if max(parts) > free:
            return None
        cards, used = 1, 0
        for part in parts:
            if used + part > free:
                cards, used = cards + 1, 0
            used += part
        return cards

    def read_in_each_pass(self, memory: int) -> int:
        """Count the bytes of weights that each pass reads from the disk of a machine.

        0 where weights and activations fit. Weights are mapped from files, so they need not fit,
        where they are used in the precision of the files, on the CPU, under Linux. The first blocks
        that fit stay in memory.

        Args:
            memory: free bytes of the machine.
        """
        room = int(memory * RESIDENT)
        if self.weights <= room:
            return 0
        others = self.weights - sum(self.blocks)
        return sum(self.blocks[blocks_that_stay(self.blocks, room - others) :])

    def seconds(self, flops_per_second: float) -> float:
        """Time to find a circuit at this sustained rate."""
        return self.flops / flops_per_second


def requirements(
    model: str | Path,
    *,
    config: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: Kind = "cuda",
    prompts: int = 200,
    length: int = 64,
    new_tokens: int = 64,
) -> Requirements:
    r"""Estimate memory and time to find a circuit in a model and to generate, before it is loaded.

    The model is built from its configuration without memory for its numbers, and wrapped by
    TransformerLens, so the counts are those of the real model. Batches are those that
    `find_circuit` and `generate` choose where memory suffices. Let P be the number of parameters
    that multiply a token (without the embeddings at both ends, and without experts that the token
    is not routed to). For n prompts of t tokens, discovery takes

    $$2 P \, n \, t$$

    operations, and fewer with a shared prefix. No weights are read, and no forward pass runs.

    >>> needs = requirements("demo", device="cpu")
    >>> needs.n_parameters, needs.k, round(needs.weights / 2**20)
    (134515008, 46, 513)

    Args:
        model: a name or path for `load_model`; from the Hub only the configuration is downloaded.
        config: a config.json to use instead; `model` is then only a name.
        dtype: precision of weights and activations; float32 is the default of `load_model` too.
        device: the kind of device, which determines the size of the batches.
        prompts: of both sets together, and those to answer.
        length: tokens of a prompt.
        new_tokens: tokens of an answer.

    Raises:
        InputError: a number that is not whole, or below 1; or another device or precision.
        ModelError: the configuration is not available, is broken, is of quantised weights, or is of
            a model that cna_lens cannot use.
    """
    for name, value in (("prompts", prompts), ("length", length), ("new_tokens", new_tokens)):
        if not is_whole(value, 1):
            raise InputError(f"{name} is {value!r}, expected a whole number from 1 on")
    _check_place(device, dtype)
    settings = _configuration(config or model)
    # Before a model is made of it, which writes its own precision there.
    file_dtype = _file_dtype(settings)
    blueprint, n_parameters, n_at_the_ends, obstacle = _without_numbers(str(model), settings, dtype)
    layout = layout_of(blueprint)
    if layout is None:
        raise ModelError(f"the configuration of {model} does not give its widths; load it")
    inner = cast("Any", blueprint).original_model
    embedding = list(inner.get_input_embeddings().parameters())
    on_cpu = device == "cpu"
    budget = CPU_TOKENS if on_cpu else GPU_TOKENS
    tokens = min(prompts * length, max(length, budget))
    answers = min(prompts, CPU_ANSWERS if on_cpu else GPU_ANSWERS)
    # As `Request` reads prompts: in several passes, where these can be joined, and in one where
    # each pass reads weights from the disk.
    reading = from_disk = answers * length
    if obstacle is None and sliding_window(blueprint) is None:
        reading = min(reading, max(length + new_tokens, budget))
    per_token = bytes_per_token(blueprint, length)
    cached = cache_bytes_per_token(blueprint)
    answers_to_come = answers * new_tokens * cached
    logits = 2 * answers * int(cast("Any", blueprint).cfg.d_vocab) * dtype.itemsize
    read = 2 * (tokens // length) * layout.n_neurons * dtype.itemsize
    computing = n_parameters - n_at_the_ends - _idle(blueprint, str(model))
    return Requirements(
        model=str(model),
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        n_parameters=n_parameters,
        n_neurons=layout.n_neurons,
        k=circuit_size(layout.n_neurons, fraction=0.001),
        weights=_bytes(cast("nn.Module", blueprint).parameters()),
        embedding=_bytes(embedding),
        blocks=tuple(_bytes(block.parameters()) for block in cast("Any", blueprint).blocks),
        statistics=_VECTORS * torch.float64.itemsize * layout.n_neurons,
        batch=tokens * per_token + read,
        cache=answers * (length + new_tokens) * cached * (layout.n_layers + 1) // layout.n_layers,
        decoding=max(reading * per_token - answers_to_come, logits),
        decoding_from_disk=max(from_disk * per_token - answers_to_come, logits),
        flops=2.0 * computing * prompts * length,
        file_dtype=file_dtype,
        slower=None if obstacle is None else without_a_cache(obstacle),
    )


def _check_place(device: object, dtype: object) -> None:
    if device not in get_args(Kind):
        raise InputError(
            f"device is {device!r}, expected 'cuda' or 'cpu', for which the sizes of batches are "
            "known"
        )
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(f"dtype is {dtype!r}, expected a precision such as torch.bfloat16")


def _configuration(source: str | Path) -> Any:
    try:
        return read_config(source)
    except CnaLensError:
        raise
    # Each family checks its configuration in its own way, or divides by its numbers unchecked.
    except Exception as error:
        raise ModelError(
            f"the configuration of {source} is broken, correct it: {type(error).__name__}: {error}"
        ) from error


def _without_numbers(
    name: str, config: Any, dtype: torch.dtype
) -> tuple[HookedModel, int, int, str | None]:
    """Build the model with shapes alone, through TransformerLens.

    Returns:
        The model, its number of parameters, the number at its ends, and why it would keep no cache.
        Parameters are counted before wrapping: the bridge of TransformerLens 3 adds a bias to the
        LM head.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import AutoModelForCausalLM

    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"the weights of {name} are quantised, and their configuration does not give their "
            "size; pass the configuration of the model before it was quantised"
        )
    try:
        # On the CPU, since a bridge refuses to split fused matrices on the meta device.
        with FakeTensorMode():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
            n_parameters = sum(parameter.numel() for parameter in model.parameters())
            n_at_the_ends = _at_the_ends(model)
            bridge = build_bridge_from_module(
                model, type(model).__name__, hf_config=config, model_name=name
            ).eval()
            obstacle = obstacle_by_shapes(cast("HookedModel", bridge))
    # A configuration that does not fit fails in as many ways as there are families.
    except Exception as error:
        raise ModelError(
            f"TransformerLens cannot wrap {name}: {type(error).__name__}: {error}; check its "
            "configuration"
        ) from error
    _without_storage(bridge)
    return cast("HookedModel", bridge), n_parameters, n_at_the_ends, obstacle


def _without_storage(model: nn.Module) -> None:
    """Replace fake parameters by plain ones without storage; shared parameters stay shared."""
    plain: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if id(parameter) not in plain:
                empty = torch.empty((), dtype=parameter.dtype).expand(parameter.shape)
                plain[id(parameter)] = nn.Parameter(empty, requires_grad=False)
            setattr(module, name, plain[id(parameter)])


def _at_the_ends(model: Any) -> int:
    """Count the parameters of the embedding, which is looked up, and of the unused LM head."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    sizes = {id(each): each.numel() for end in ends if end for each in end.parameters()}
    return sum(sizes.values())


def _idle(model: HookedModel, name: str) -> float:
    """Count the parameters of experts that a token is not routed to."""
    sparse = [site.experts for site in sparse_sites(model)]
    if not sparse:
        return 0.0
    config = cast("Any", model).original_model.config.get_text_config()
    per_token = getattr(config, "num_experts_per_tok", None)
    if not isinstance(per_token, int):
        raise ModelError(
            f"the configuration of {name} has experts, but no num_experts_per_tok; add it for an "
            "estimate of the time"
        )
    return sum(
        (1 - per_token / experts.shape.count) * sum(map(torch.numel, experts.module.parameters()))
        for experts in sparse
        if experts is not None
    )


def _file_dtype(settings: Any) -> str | None:
    text = settings.get_text_config()
    dtype = getattr(text, "dtype", None) or getattr(settings, "dtype", None)
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
