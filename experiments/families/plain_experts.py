"""The slow definition: a plain mixture of experts, one token and one expert at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cna_lens import Layout

Change = Callable[[int, int | None, int, Tensor], Tensor]
"""Gives neurons' new activations, from (layer, expert, token, activation times route weight).

The expert is None for an MLP that every token passes.
"""


def unchanged(layer: int, expert: int | None, token: int, weighted: Tensor) -> Tensor:  # noqa: ARG001
    """Return the activations without a change."""
    return weighted


def gated(module: Any, hidden: Tensor, expert: int) -> Tensor:
    """The input of an expert's down projection for one token, from its weights."""
    if hasattr(module, "gate_up_proj_bias"):
        both = hidden @ module.gate_up_proj[expert] + module.gate_up_proj_bias[expert]
        gate, up = both[0::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    gate, up = (module.gate_up_proj[expert] @ hidden).chunk(2)
    return gate * torch.sigmoid(gate) * up


def _experts(
    module: Any, hidden: Tensor, index: Tensor, weights: Tensor, *, layer: int, change: Change
) -> Tensor:
    out = torch.zeros_like(hidden)
    for token in range(len(hidden)):
        for expert, weight in zip(index[token].tolist(), weights[token], strict=True):
            weighted = change(layer, expert, token, weight * gated(module, hidden[token], expert))
            if hasattr(module, "down_proj_bias"):
                bias = module.down_proj_bias[expert]
                out[token] += weighted @ module.down_proj[expert] + weight * bias
            else:
                out[token] += module.down_proj[expert] @ weighted
    return out


def shared_of(mlp: Any) -> Any:
    """The experts of a sparse layer that every token passes; None where it has none."""
    return getattr(mlp, "shared_experts", None) or getattr(mlp, "shared_expert", None)


@contextmanager
def changed(hf: Any, change: Change = unchanged) -> Generator[None]:
    """Run one unpadded prompt with `change` applied to each MLP's neurons at each token."""

    def dense(
        module: object,  # noqa: ARG001
        args: tuple[Tensor],
        *,
        layer: int,
        gates: Callable[[], Tensor] | None,
    ) -> Tensor:
        rows = args[0].reshape(-1, args[0].shape[-1])
        weights = gates() if gates else torch.ones(len(rows))
        new = [
            change(layer, None, token, row * weight) / weight
            for token, (row, weight) in enumerate(zip(rows, weights, strict=True))
        ]
        return torch.stack(new).view_as(args[0])

    handles: list[Any] = []
    patched: list[Any] = []
    for layer, block in enumerate(hf.model.layers):
        entered: dict[str, Tensor] = {}
        down, gates = getattr(block.mlp, "down_proj", None), None
        if hasattr(block.mlp, "experts"):
            module = block.mlp.experts
            module.forward = partial(_experts, module, layer=layer, change=change)
            patched.append(module)
            shared = shared_of(block.mlp)
            down = None if shared is None else shared.down_proj
            if hasattr(block.mlp, "shared_expert_gate"):
                handles.append(block.mlp.register_forward_pre_hook(partial(_enter, entered)))
                gates = partial(_gates, entered, block.mlp.shared_expert_gate.weight[0])
        if down is not None:
            hook = partial(dense, layer=layer, gates=gates)
            handles.append(down.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()
        for module in patched:
            del module.forward


def _enter(entered: dict[str, Tensor], _: object, args: tuple[Tensor]) -> None:
    entered["hidden"] = args[0]


def _gates(entered: dict[str, Tensor], gate: Tensor) -> Tensor:
    return torch.sigmoid(entered["hidden"].reshape(-1, len(gate)) @ gate)


def logits(hf: Any, ids: Sequence[int], change: Change = unchanged) -> Tensor:
    """The logits at each position."""
    with changed(hf, change):
        return hf(torch.tensor([ids]), use_cache=False).logits[0]


def activations(
    hf: Any, ids: Sequence[int], layout: Layout, position: int = -1
) -> tuple[Tensor, set[tuple[int, int]]]:
    """Route-weighted activations of all neurons at one token, and the experts that ran."""
    values = torch.zeros(layout.n_neurons)
    ran: set[tuple[int, int]] = set()

    def note(layer: int, expert: int | None, token: int, weighted: Tensor) -> Tensor:
        if token == range(len(ids))[position]:
            start = layout.starts[layer]
            if expert is not None:
                dense = layout.widths[layer] - layout.experts[layer][0] * layout.experts[layer][1]
                start += dense + expert * len(weighted)
                ran.add((layer, expert))
            values[start : start + len(weighted)] = weighted
        return weighted

    logits(hf, ids, note)
    return values.double(), ran
