"""Drifts of a model that is made smaller: weights in 4 bits, and pruned ones."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from cna_lens import diverse_prompts
from cna_lens.models import HookedModel, encode
from experiments.audit.bench import Bench
from experiments.audit.variants import Changes, Enter
from experiments.audit.weight_edits import edited

BITS, GROUP = 4, 64
PROJECTION = "_proj.weight"
"""The matrices of attention and MLPs; embeddings stay as they are, as in practice."""

SHARES = (0.05, 0.1)
ONE_COMPONENT = "._original_component"


def made_smaller() -> Changes:
    """Weights in 4 bits by several methods, and weights pruned by two."""

    def by_matrix(change: Callable[[Tensor], Tensor]) -> Enter:
        return lambda bench: edited(
            bench.model,
            lambda name, weight: change(weight) if name.endswith(PROJECTION) else None,
        )

    def by_inputs(change: Callable[[Tensor, Tensor], Tensor]) -> Enter:
        def enter(bench: Bench) -> AbstractContextManager[HookedModel]:
            inputs = input_sizes(bench.model)
            return edited(
                bench.model,
                lambda name, weight: change(weight, inputs[name]) if name in inputs else None,
            )

        return enter

    kind = "4 bits"
    for group in (GROUP, GROUP // 2):
        yield (
            f"4 bits, groups of {group}",
            kind,
            by_matrix(lambda weight, group=group: to_nearest(weight, group=group)),
        )
    yield (
        f"4 bits with a zero point, groups of {GROUP}",
        kind,
        by_matrix(lambda weight: to_nearest(weight, zero_point=True)),
    )
    yield f"4 bits by inputs, groups of {GROUP}", kind, by_inputs(activation_aware)
    for share in SHARES:
        yield (
            f"{share:.0%} pruned by magnitude",
            "pruning",
            by_matrix(lambda weight, share=share: pruned(weight, share)),
        )
    yield (
        f"{max(SHARES):.0%} pruned by magnitude and inputs",
        "pruning",
        by_inputs(lambda weight, sizes: pruned(weight, max(SHARES), by_rows=sizes)),
    )


def to_nearest(
    weight: Tensor, bits: int = BITS, group: int = GROUP, *, zero_point: bool = False
) -> Tensor:
    r"""Round weights to the nearest level, with levels for each group of a row.

    $$w \leftarrow s \cdot \mathrm{round}(w / s), \quad s = \max |w| / (2^{bits-1} - 1)$$

    With a zero point the levels lie from the group's minimum to its maximum, 0 among neither
    necessarily.

    Args:
        weight: a matrix; its columns are inputs.
        bits: of each weight.
        group: neighbouring columns that share a scale; the last group of a row may be smaller.
        zero_point: place the levels between minimum and maximum.
    """
    found: list[Tensor] = []
    for part in weight.float().split(group, dim=1):
        low = part.amin(1, keepdim=True) if zero_point else torch.zeros(())
        if zero_point:
            step = (part.amax(1, keepdim=True) - low) / (2**bits - 1)
        else:
            step = part.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        # A group of equal weights has no steps.
        safe = step.where(step > 0, torch.ones(()))
        found.append(((part - low) / safe).round() * step + low)
    return torch.cat(found, dim=1).to(weight)


def activation_aware(weight: Tensor, sizes: Tensor) -> Tensor:
    r"""Round to 4 bits with columns enlarged first, as AWQ does (arXiv 2306.00978).

    Column j is multiplied with $s_j = \sqrt{\overline{|x_j|}}$ before rounding and divided by it
    after, so that the weights of large inputs are rounded least. AWQ looks for the exponent; here
    it is 1/2.

    Args:
        weight: a matrix.
        sizes: the mean magnitude of each input.
    """
    scale = sizes.to(weight).clamp_min(1e-5).sqrt()
    scale = scale / (scale.max() * scale.min()).sqrt()
    return to_nearest(weight * scale) / scale


def pruned(weight: Tensor, share: float, *, by_rows: Tensor | None = None) -> Tensor:
    """Set the smallest weights to 0.

    Args:
        weight: a matrix.
        share: of its entries.
        by_rows: the size of each input, if in each row those with the smallest product of weight
            and input are to be pruned (arXiv 2306.11695); by default the smallest of the matrix.
    """
    sizes = weight.abs() if by_rows is None else weight.abs() * by_rows.to(weight)
    rows = sizes.flatten()[None] if by_rows is None else sizes
    smallest = rows.topk(round(share * rows.shape[1]), dim=1, largest=False).indices
    return weight.reshape(rows.shape).scatter(1, smallest, 0.0).view(weight.shape)


def input_sizes(model: HookedModel) -> Mapping[str, Tensor]:
    """The mean magnitude of each input of each projection, over tokens of diverse prompts."""
    totals: dict[str, Tensor] = {}
    n_tokens = 0
    with torch.no_grad(), _added_up(model, totals):
        for ids in encode(model, diverse_prompts()).ids:
            cast("Any", model)(torch.tensor([ids]))
            n_tokens += len(ids)
    return {name: total / n_tokens for name, total in totals.items()}


@contextmanager
def _added_up(model: HookedModel, totals: dict[str, Tensor]) -> Generator[None]:
    """Add up the magnitudes of all inputs of projections within the context."""

    def adding(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            added = inputs[0].detach().abs().float().flatten(0, -2).sum(0)
            totals[name] = totals[name] + added if name in totals else added

        return hook

    module = cast("nn.Module", cast("Any", model).original_model)
    handles = [
        each.register_forward_pre_hook(adding(weight))
        for name, each in module.named_modules()
        if isinstance(each, nn.Linear)
        and (weight := f"{name.replace(ONE_COMPONENT, '')}.weight").endswith(PROJECTION)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
