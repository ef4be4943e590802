"""The tokens that a neuron promotes and suppresses: its output weights through the unembedding."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError, ModelError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.projections import down_projection
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.tokens.token_texts import check_k, lone_token_texts
from cna_lens.results.neurons import Neuron, as_neuron

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TokenLogit:
    """A token and the logit that a neuron gives it.

    Attributes:
        token: its text.
        token_id: its id.
        logit: relative; one positive factor is common to all tokens.
    """

    token: str
    token_id: int
    logit: float


@dataclass(frozen=True)
class PromotedTokens:
    """The tokens that an active neuron makes more likely, and those that it makes less likely.

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

    def to_frame(self) -> pd.DataFrame:
        """A data frame with the columns side ("up" or "down"), token, token_id and logit."""
        import pandas as pd

        sides = {"up": self.up, "down": self.down}
        return pd.DataFrame(
            [{"side": side, **asdict(each)} for side, found in sides.items() for each in found]
        )


def promoted_tokens(
    model: HookedModel, neuron: Neuron | tuple[int, int], k: int = 10
) -> PromotedTokens:
    r"""Project a neuron's output weights onto the vocabulary, with the model's own unembedding.

    Let $w$ be the neuron's row of the down projection, scaled to a mean square of 1, and $f$ the
    final norm followed by the unembedding. The logits are

    $$\frac{1}{2} \left( f(w) - f(-w) \right)$$

    so biases cancel. Where the block has a norm on its MLP's output, $w$ passes through it first.
    This is the direct effect alone: it leaves out how later layers use $w$, and the norm of the
    residual stream, which divides every logit by the same factor. A negative activation swaps
    promoted and suppressed tokens.

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
        InputError: the model has no such neuron, it is one of an expert, or k is out of range.
        ModelError: the down projection is unknown or offloaded, or its row is 0; or the model has
            no final norm.
    """
    neuron = _checked(neuron)
    check_k(model, k)
    logits = _logits(model, _row(model, neuron), neuron.layer)

    def extreme(*, largest: bool) -> tuple[TokenLogit, ...]:
        values, ids = (part.tolist() for part in logits.topk(k, largest=largest))
        return tuple(map(TokenLogit, lone_token_texts(model, ids), ids, values))

    return PromotedTokens(model_name(model), neuron, extreme(largest=True), extreme(largest=False))


def _checked(neuron: Neuron | tuple[int, int]) -> Neuron:
    try:
        found = as_neuron(neuron)
    except (TypeError, ValueError) as error:
        raise InputError(f"neuron is {neuron!r}, expected (layer, index)") from error
    if not isinstance(found, Neuron):
        raise InputError(
            f"neuron is {neuron!r}, a neuron of an expert; expected (layer, index) of a neuron "
            "that every token passes"
        )
    return found


def _row(model: HookedModel, neuron: Neuron) -> Float[Tensor, " d_model"]:
    names = mlp_hook_names(model)
    if not 0 <= neuron.layer < len(names):
        raise InputError(
            f"layer {neuron.layer} does not exist: the model has layers 0 to {len(names) - 1}"
        )
    projection = None if names[neuron.layer] is None else down_projection(model, neuron.mlp)
    if projection is None:
        raise ModelError(
            f"the down projection of layer {neuron.layer} of {model_name(model)} is unknown"
        )
    if not 0 <= neuron.index < projection.width:
        raise InputError(
            f"neuron {neuron.index} does not exist in layer {neuron.layer}, which has neurons 0 to "
            f"{projection.width - 1}"
        )
    if projection.weight.is_meta:
        raise ModelError(
            f"the down projection of layer {neuron.layer} of {model_name(model)} is offloaded, so "
            "its numbers cannot be read; load the model whole"
        )
    return projection.weight.detach().select(projection.neuron_dim, neuron.index)


def _logits(
    model: HookedModel, row: Float[Tensor, " d_model"], layer: int
) -> Float[Tensor, " d_vocab"]:
    size = row.float().square().mean().sqrt()
    if not bool(size > 0):
        raise ModelError(f"the neuron of layer {layer} writes nothing: its row is 0")
    parts = cast("Any", model)
    norm = getattr(parts, "ln_final", None)
    # Where the Hugging Face model has None for its norm, the bridge has a part without content.
    if norm is None or getattr(norm, "original_component", norm) is None:
        raise ModelError(
            f"{model_name(model)} has no final norm (ln_final), behind which a neuron's row is "
            "read as logits; use a model that has one"
        )
    after_mlp = getattr(parts.blocks[layer], "ln2_post", None)
    direction = (row / size.to(row))[None, None]

    # Not TransformerLens's `logit_readout`: 3.9 lacks it, it refuses quantised unembeddings, and
    # it applies the soft cap of Gemma 2, in which biases would no longer cancel.
    def unembedded(x: Tensor) -> Tensor:
        if after_mlp is not None:
            x = after_mlp(x)
        final = next(parts.unembed.parameters()).device
        # Whatever loads an offloaded unembedding takes x from any device.
        return parts.unembed(norm(x if final.type == "meta" else x.to(final)))

    with torch.no_grad():
        return ((unembedded(direction) - unembedded(-direction)) / 2)[0, 0].float().cpu()
