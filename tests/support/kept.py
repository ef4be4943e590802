"""Kept activations made from given numbers, as if a model had been run."""

import torch

from cna_lens import Layout, PromptActivations, PromptRecord, Source


def kept(rows, widths=None, shards=1, dtype=torch.float32):
    """Activations with one row per prompt; prompts are distributed to the shards at random."""
    rows = torch.as_tensor(rows, dtype=dtype)
    source = Source("made up", -1, PromptRecord(len(rows), "0" * 64))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    parts = [order[start::shards] for start in range(shards)]
    return PromptActivations(
        Layout(tuple(widths or (rows.shape[1],))),
        source,
        tuple((tuple(part), rows[part]) for part in parts),
    )


def noise(n_prompts, n_neurons, seed):
    return torch.randn(
        (n_prompts, n_neurons), generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    )
