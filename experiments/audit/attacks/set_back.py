"""Weights set back to those of the model without refusals: a share of the way, or some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from cna_lens.models import HookedModel
from experiments.audit.bench import Bench
from experiments.audit.variants import Changes, Enter
from experiments.audit.weight_edits import edited, exchanged, towards, weights_of

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
SHARES = (0.001, 0.003, 0.01, 0.03, 0.05)
"""Of the entries that differ, as MAttr sets them back (arXiv 2609.25518)."""

SEEDS = (0, 1)

Score = Callable[[Bench, str, Tensor], Tensor]
"""How much each entry of a weight matters, from its name and what setting it back would add."""


def weakened() -> Changes:
    """All weights a share of the way back."""
    for share in STRENGTHS:
        kind = "adapter removed" if share == 1 else "adapter weakened"
        yield f"adapter at {1 - share:g}", kind, weakened_adapter(share)


def weakened_adapter(share: float) -> Enter:
    """The weights a share of the way back to those without the adapter."""
    return lambda bench: edited(bench.model, towards(bench.without_adapter, share))


def some_set_back() -> Changes:
    """A few weights all the way back, chosen in several ways."""
    ways: dict[str, tuple[Score, ...]] = {
        "gradient": (by_gradient,),
        "signed gradient": (by_signed_gradient,),
        "size": (by_size,),
        "random": tuple(map(at_random, SEEDS)),
    }
    for share in reversed(SHARES):
        for way, scores in ways.items():
            how = "at random" if way == "random" else f"by {way}"
            for seed, score in enumerate(scores):
                which = f", seed {seed}" if len(scores) > 1 else ""
                name = f"{share:.1%} of weights set back {how}{which}"
                yield name, f"weights set back {how}", set_back(score, share)


def set_back(score: Score, share: float) -> Enter:
    """Those weights set back that matter most by a score."""

    def enter(bench: Bench) -> AbstractContextManager[HookedModel]:
        chosen = strongest(scores_of(bench, score), share)
        return edited(bench.model, exchanged(bench.without_adapter, chosen))

    return enter


def by_gradient(bench: Bench, name: str, change: Tensor) -> Tensor:
    r"""$|\partial m/\partial w \cdot (w_{base} - w)|$, m the log-odds of a refusal."""
    return (bench.gradient[name] * change).abs()


def by_signed_gradient(bench: Bench, name: str, change: Tensor) -> Tensor:
    """The log-odds of a refusal that setting the weight back takes, to first order."""
    return -bench.gradient[name] * change


def by_size(_: Bench, __: str, change: Tensor) -> Tensor:
    """$|w_{base} - w|$."""
    return change.abs()


def at_random(seed: int) -> Score:
    """A random order, the same for each share."""

    def score(bench: Bench, name: str, change: Tensor) -> Tensor:
        place = list(bench.without_adapter).index(name)
        generator = torch.Generator().manual_seed(1000 * seed + place)
        return torch.rand(change.shape, generator=generator)

    return score


def scores_of(bench: Bench, score: Score) -> dict[str, Tensor]:
    """The score of every weight, minus infinity where the models do not differ."""
    weights = weights_of(bench.model)
    found: dict[str, Tensor] = {}
    for name, other in bench.without_adapter.items():
        change = other - weights[name].detach()
        found[name] = score(bench, name, change).masked_fill(change == 0, -torch.inf)
    return found


def strongest(scores: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of those entries with the highest scores, over all tensors together.

    >>> strongest({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, -torch.inf])}, 2 / 3)
    {'a': tensor([ True, False]), 'b': tensor([ True, False])}

    Args:
        scores: of each entry; those with minus infinity are neither counted nor chosen.
        share: of the entries that count.
    """
    flat = torch.cat([each.flatten() for each in scores.values()])
    n = round(share * int((flat > -torch.inf).sum()))
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.topk(n).indices] = True
    parts = chosen.split([each.numel() for each in scores.values()])
    return {
        name: part.view(each.shape)
        for (name, each), part in zip(scores.items(), parts, strict=True)
    }
