"""Prompts, a layout and logits, for tests of steering on the tiny dense models."""

import tiny
import torch

from cna_lens import Layout

LAYOUT = Layout((tiny.WIDTH, tiny.WIDTH))
IDS = [5, 6, 7, 8, 30, 31]
POSITIVE = [[5, 6, 7], [8, 9, 3, 4], [40, 41]]
NEGATIVE = [[12, 13], [50, 5, 51], [20, 21, 22]]


def logits(model, ids=IDS):
    """The logits of one prompt on a model with hooks."""
    with torch.no_grad():
        return model(torch.tensor([ids]))[0]


def plain(model):
    """The Hugging Face model with the same weights, which nothing steers."""
    return tiny.hugging_face(model.cfg.model_name.removeprefix("tiny-"))
