"""Slow definitions in plain Hugging Face, without cna_lens and TransformerLens."""

from contextlib import contextmanager

import tiny
import torch

from experiments.families import plain


def changed(hf, change):
    """Run the model with `change(layer, activation)` in place of each down projection's input."""
    return plain.changed(tiny.down_projections(hf), change)


def activations(hf, prompts, position=-1):
    """One row per prompt, with the neurons of all layers on one axis."""
    rows = []
    for ids in prompts:
        seen = {}

        def note(layer, activation, seen=seen):
            seen[layer] = activation[0, position].double()
            return activation

        with changed(hf, note):
            hf(torch.tensor([ids]))
        rows.append(torch.cat([seen[layer] for layer in sorted(seen)]))
    return torch.stack(rows)


def scaled(hf, factors):
    """Multiply neurons' outgoing weights in place; `factors` maps (layer, index) to a number."""
    with torch.no_grad():
        for (layer, index), factor in factors.items():
            projection = tiny.down_projections(hf)[layer]
            linear = isinstance(projection, torch.nn.Linear)
            (projection.weight[:, index] if linear else projection.weight[index]).mul_(factor)
    return hf


def scale_at(neurons, multiplier, places):
    """A change for `changed`: scale these neurons at these positions of an unpadded row."""

    def change(layer, activation):
        activation = activation.clone()
        for at, index in neurons:
            if at == layer:
                activation[:, places, index] *= multiplier
        return activation

    return change


def logits(hf, ids):
    with torch.no_grad():
        return hf(torch.tensor([ids])).logits[0]


def greedy(hf, ids, max_new_tokens, stops=(2,)):
    """The greedy answer to one prompt; each token takes a pass over the whole sequence."""
    answer = []
    while len(answer) < max_new_tokens:
        token = int(logits(hf, [*ids, *answer])[-1].argmax())
        if token in stops:
            break
        answer.append(token)
    return answer


def settled(model):
    """The model after one pass, because a bridge sets hooks of its own on the first."""
    with torch.no_grad():
        model(torch.tensor([[5]]))
    return model


def hooks(model):
    """Every hook on every module, by identity, to compare before and after."""
    return {
        name: (
            tuple(module._forward_hooks),
            tuple(module._forward_pre_hooks),
            tuple(map(id, getattr(module, "fwd_hooks", ()))),
        )
        for name, module in model.named_modules()
    }


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same_bits(before, after):
    return before.keys() == after.keys() and all(
        torch.equal(_bits(before[name]), _bits(after[name])) for name in before
    )


def _bits(weight):
    return weight.detach().contiguous().view(-1).view(torch.uint8)


def writers(hf):
    """The modules whose output is added to the residual stream, as (layer, site, module)."""
    blocks = hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers
    for layer, block in enumerate(blocks):
        if hasattr(block, "post_feedforward_layernorm"):
            attention, mlp = block.post_attention_layernorm, block.post_feedforward_layernorm
        else:
            attention, mlp = getattr(block, "self_attn", None) or block.attn, block.mlp
        yield layer, "attn_out", attention
        yield layer, "mlp_out", mlp


@contextmanager
def residual_changed(hf, change):
    """Run the model with `change(layer, site, tensor)` in place of the tensor at each site.

    The sites are attn_out, mlp_out, resid_pre and resid_post.
    """

    def output(layer, site):
        def hook(_, __, out):
            if isinstance(out, tuple):
                return (change(layer, site, out[0]), *out[1:])
            return change(layer, site, out)

        return hook

    def entering(layer):
        return lambda _, args: (change(layer, "resid_pre", args[0]), *args[1:])

    blocks = hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers
    handles = [module.register_forward_hook(output(at, site)) for at, site, module in writers(hf)]
    for layer, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(entering(layer)))
        handles.append(block.register_forward_hook(output(layer, "resid_post")))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def residuals(hf, prompts, site, position=-1):
    """The vectors at a site of each layer, at one token, as [prompt, layer, d_model]."""
    rows = []
    for ids in prompts:
        seen = {}

        def note(layer, at, tensor, seen=seen):
            if at == site:
                seen[layer] = tensor[0, position].double()
            return tensor

        with residual_changed(hf, note):
            hf(torch.tensor([ids]))
        rows.append(torch.stack([seen[layer] for layer in sorted(seen)]))
    return torch.stack(rows)
