"""Slow definitions for models with experts, one token and one expert at a time, by hand."""

from contextlib import contextmanager
from functools import partial

import torch


def unchanged(layer, expert, token, weighted):
    return weighted


def gated(module, hidden, expert):
    """The input of an expert's down projection for one token, from its weights."""
    if hasattr(module, "gate_up_proj_bias"):
        both = hidden @ module.gate_up_proj[expert] + module.gate_up_proj_bias[expert]
        gate, up = both[0::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    gate, up = (module.gate_up_proj[expert] @ hidden).chunk(2)
    return gate * torch.sigmoid(gate) * up


def _experts(module, hidden, index, weights, *, layer, change):
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


def shared_of(mlp):
    return getattr(mlp, "shared_experts", None) or getattr(mlp, "shared_expert", None)


@contextmanager
def changed(hf, change=unchanged):
    """Run one unpadded prompt, `change` in place of what each MLP's neurons give each token.

    Called with the layer, the expert (None for what every token passes), the token's place and its
    activations with the route weight.
    """

    def dense(module, args, *, layer, gates):
        rows = args[0].reshape(-1, args[0].shape[-1])
        weights = gates() if gates else torch.ones(len(rows))
        new = [
            change(layer, None, token, row * weight) / weight
            for token, (row, weight) in enumerate(zip(rows, weights, strict=True))
        ]
        return torch.stack(new).view_as(args[0])

    handles, patched = [], []
    for layer, block in enumerate(hf.model.layers):
        entered = {}
        down, gates = getattr(block.mlp, "down_proj", None), None
        if hasattr(block.mlp, "experts"):
            module = block.mlp.experts
            module.forward = partial(_experts, module, layer=layer, change=change)
            patched.append(module)
            shared = shared_of(block.mlp)
            down = None if shared is None else shared.down_proj
            if hasattr(block.mlp, "shared_expert_gate"):
                keep = lambda _, args, entered=entered: entered.update(x=args[0])  # noqa: E731
                handles.append(block.mlp.register_forward_pre_hook(keep))
                gate = block.mlp.shared_expert_gate.weight[0]
                gates = lambda entered=entered, gate=gate: torch.sigmoid(  # noqa: E731
                    entered["x"].reshape(-1, len(gate)) @ gate
                )
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


def logits(hf, ids, change=unchanged):
    with changed(hf, change):
        return hf(torch.tensor([ids]), use_cache=False).logits[0]


def activations(hf, ids, layout, position=-1):
    """What reaches the output at one token, all neurons on one axis; and which experts ran."""
    values = torch.zeros(layout.n_neurons)
    ran = set()

    def note(layer, expert, token, weighted):
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
