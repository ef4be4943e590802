"""Which tokens a neuron writes up and down: its row of the down projection, through the unembed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.projections import down_projection
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.tokens.token_texts import token_texts
from cna_lens.results.neurons import Neuron


@dataclass(frozen=True)
class TokenLogit:
    """A token and the logit that a neuron writes for it.

    Attributes:
        token: its text.
        token_id: its id.
        logit: up to one positive factor for all tokens.
    """

    token: str
    token_id: int
    logit: float


@dataclass(frozen=True)
class PromotedTokens:
    """The tokens that a neuron makes likelier when it is active, and those it makes less likely.

    Attributes:
        model: the model's name.
        neuron: the neuron.
        up: the most promoted first.
        down: the most suppressed first.
    """

    model: str
    neuron: Neuron
    up: tuple[TokenLogit, ...]
    down: tuple[TokenLogit, ...]


def promoted_tokens(
    model: HookedModel, neuron: Neuron | tuple[int, int], k: int = 10
) -> PromotedTokens:
    r"""Read what a neuron writes to the residual stream with the model's own unembedding.

    With the row $w$ that the neuron's activation is multiplied with, the final norm and the
    unembedding as one map $f$, and $w$ scaled to a mean square of 1, the logits are

    $$\frac{1}{2} \left( f(w) - f(-w) \right)$$

    so that biases cancel. Where the block has a norm on its MLP's output, $w$ passes it first. It
    is the direct effect alone: what later layers make of $w$ is left out, and so is the size of
    the residual stream, which divides every logit alike. A negative activation turns the table
    around.

    Source: the logit lens (nostalgebraist, 2020), applied to neurons (Geva et al., 2022,
    arXiv 2203.14680). Cost: no forward pass.

    >>> found = promoted_tokens(tiny_model, (1, 3), k=2)
    >>> len(found.up), found.up[0].logit > 0 > found.down[0].logit
    (2, True)

    Args:
        model: a TransformerBridge or HookedTransformer.
        neuron: (layer, index).
        k: how many tokens of each side.

    Raises:
        InputError: the model has no such neuron, or k is out of range.
        ModelError: the down projection cannot be told, or is 0 there.
    """
    layer, index = neuron
    size = int(model.cfg.d_vocab)
    if not 1 <= k <= size:
        raise InputError(f"k is {k}, expected 1 to {size}, the number of tokens")
    logits = _logits(model, _row(model, Neuron(layer, index)), layer)
    up, down = (logits.topk(k, largest=largest) for largest in (True, False))
    return PromotedTokens(
        model_name(model),
        Neuron(layer, index),
        *(
            tuple(
                TokenLogit(text, token, logit)
                for text, token, logit in zip(
                    token_texts(model, side.indices.tolist()),
                    side.indices.tolist(),
                    side.values.tolist(),
                    strict=True,
                )
            )
            for side in (up, down)
        ),
    )


def _row(model: HookedModel, neuron: Neuron) -> Float[Tensor, " d_model"]:
    names = mlp_hook_names(model)
    if not 0 <= neuron.layer < len(names):
        raise InputError(
            f"layer {neuron.layer} does not exist: the model has layers 0 to {len(names) - 1}"
        )
    projection = None if names[neuron.layer] is None else down_projection(model, neuron.mlp)
    if projection is None:
        raise ModelError(
            f"the down projection of layer {neuron.layer} of {model_name(model)} cannot be told"
        )
    if not 0 <= neuron.index < projection.width:
        raise InputError(
            f"neuron {neuron.index} does not exist in layer {neuron.layer}, which has neurons 0 to "
            f"{projection.width - 1}"
        )
    return projection.weight.detach().select(projection.neuron_dim, neuron.index)


def _logits(
    model: HookedModel, row: Float[Tensor, " d_model"], layer: int
) -> Float[Tensor, " d_vocab"]:
    size = row.float().square().mean().sqrt()
    if not bool(size > 0):
        raise ModelError(f"the neuron of layer {layer} writes nothing: its row is 0")
    parts = cast("Any", model)
    after_mlp = getattr(parts.blocks[layer], "ln2_post", None)
    direction = (row / size.to(row))[None, None]

    def unembedded(x: Tensor) -> Tensor:
        if after_mlp is not None:
            x = after_mlp(x)
        final = next(parts.unembed.parameters()).device
        return parts.unembed(parts.ln_final(x.to(final)))

    with torch.no_grad():
        return ((unembedded(direction) - unembedded(-direction)) / 2)[0, 0].float().cpu()
