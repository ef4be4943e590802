"""Slow definitions in plain Hugging Face, without cna_lens and TransformerLens."""

from contextlib import contextmanager

import tiny
import torch


def boot(hf, chat=False):
    """A bridge around a model whose weights a test has chosen."""
    from transformer_lens.model_bridge import TransformerBridge

    name = f"tiny-{hf.config.model_type}"
    return TransformerBridge.boot_transformers(
        name, hf_model=hf, tokenizer=tiny.tokenizer(chat), device="cpu", dtype=torch.float32
    )


@contextmanager
def changed(hf, change):
    """Run the model with `change(layer, activation)` in place of each down projection's input."""
    handles = [
        projection.register_forward_pre_hook(
            lambda _, args, layer=layer: (change(layer, args[0]), *args[1:])
        )
        for layer, projection in enumerate(tiny.down_projections(hf))
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def activations(hf, prompts, position=-1):
    """One row a prompt, all layers' neurons on one axis."""
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
    """Multiply neurons' outgoing weights for good; `factors` maps (layer, index) to a number."""
    with torch.no_grad():
        for (layer, index), factor in factors.items():
            projection = tiny.down_projections(hf)[layer]
            linear = isinstance(projection, torch.nn.Linear)
            (projection.weight[:, index] if linear else projection.weight[index]).mul_(factor)
    return hf


def scale_at(neurons, multiplier, places):
    """A change for `changed`: these neurons, at these positions of an unpadded row."""

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
    """The answer of one prompt, the whole sequence again for each token."""
    answer = []
    while len(answer) < max_new_tokens:
        token = int(logits(hf, [*ids, *answer])[-1].argmax())
        if token in stops:
            break
        answer.append(token)
    return answer


def settled(model):
    """The model after a pass: on its first one a bridge sets hooks of its own."""
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
