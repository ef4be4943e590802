"""Rank by perturbation probing: what a neuron's change writes directly towards the behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cna_lens.discovery.rankings.protocol import Collected, Needs, Ranking
from cna_lens.errors import InputError, ModelError
from cna_lens.metrics.first_token import FirstTokenMetric, LogOdds, Values, check_metric
from cna_lens.models.hooked_model import HookedModel, input_device, model_name
from cna_lens.models.inside.projections import (
    DownProjection,
    output_vectors,
    readable_projections,
    unembedding,
)
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.models.running.forward import forward_logits
from cna_lens.models.running.positions import prompt_lengths
from cna_lens.results.scores import NeuronScores

COLUMNS = 8192
"""Of the unembedding, that are in float64 at once."""

LOOKED_AT = 64
"""Neurons of an MLP, of which one is moved to see what it writes."""

FARTHER, COARSE = 4.0, 0.004
"""How much farther it is moved in a precision whose relative error is larger than this."""

ALONG, LINEAR = 0.99, 0.05
"""Least cosine with the output vector, and the largest share by which twice is not twice as far."""


@dataclass(frozen=True)
class PerturbationProbing(Ranking):
    r"""The difference of means, times what the neuron writes directly towards the behaviour.

    $$s_{l,j} = \delta_{l,j} \; d \cdot W^{\text{out}}_{l,j}$$

    where $\delta$ is the difference of mean activations between positive and negative prompts,
    $W^{\text{out}}_{l,j}$ the vector that the neuron is multiplied with, and d a direction of the
    unembedding: for `LogOdds`, the mean vector of the openings' first tokens less that of all other
    tokens; for `LogitDifference`, the target's vector less the foil's. That is the gradient of the
    metric through the unembedding where all logits are equal. Blocks and norms between the neuron
    and the logits are left out, so that the score is a guess at a direct effect. If norms are
    folded into a model's weights (HookedTransformer), the folded weights count.

    The negative prompts are the perturbed ones: close to the positive ones, and without the
    behaviour. For refusals, the authors swap adjacent letters of the request.

    >>> probing = PerturbationProbing(LogitDifference(target=5, foil=6))
    >>> scores = score_neurons(tiny_model, [[5, 6], [8]], [[7], [9]], probing)
    >>> scores.unit
    'logits'

    Source: arXiv 2604.27401; the formula is that of a public program that implements it
    (`github.com/phunterlau/perturber`). There the original prompt's activations are subtracted, so
    that the sign is the other one, and the tokens to compare with are named, where `LogOdds` takes
    all others. Cost: one forward pass for each prompt, and two over a token, one of them in two
    rows for each layer, which try what neurons write.

    Attributes:
        metric: `LogOdds` of the behaviour's first tokens, refusal by default, or
            `LogitDifference` with one target and one foil for all prompts.
    """

    metric: FirstTokenMetric = field(default_factory=LogOdds)
    name: ClassVar[str] = "perturbation_probing"
    needs: ClassVar[Needs] = "weights"

    def __post_init__(self) -> None:
        """Reject invalid settings."""
        check_metric(self.metric)

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:  # noqa: ARG002
        """Raise an error for a model or a metric that the ranking cannot use.

        Raises:
            InputError: the metric does not fit, or is another one for each prompt.
            ModelError: a down projection or the unembedding cannot be read, or a neuron does not
                write its output vector to the residual stream, as where a norm stands behind the
                MLP (Gemma 2 and 3).
        """
        _slope(self.metric.of(model, n_positive), n_positive, int(model.cfg.d_vocab), self.metric)
        unembedding(model, self.name)
        _check_what_neurons_write(model)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        model = collected.model
        towards = _direction(model, self.metric, collected.positive.count)
        written = torch.cat([vectors @ towards for vectors in output_vectors(model, self.name)])
        delta = collected.positive.mean - collected.negative.mean
        return collected.scored(self, delta * written, self.metric.unit)


def _direction(
    model: HookedModel, metric: FirstTokenMetric, n_prompts: int
) -> Float64[Tensor, " d_model"]:
    """The direction in the residual stream that raises the metric most, from equal logits."""
    matrix = unembedding(model, PerturbationProbing.name)
    slope = _slope(metric.of(model, n_prompts), n_prompts, matrix.shape[1], metric)
    found = torch.zeros(len(matrix), dtype=torch.float64)
    for columns, slopes in zip(matrix.split(COLUMNS, dim=1), slope.split(COLUMNS), strict=True):
        found += columns.cpu().double() @ slopes
    return found


def _slope(
    values: Values, n_prompts: int, d_vocab: int, metric: FirstTokenMetric
) -> Float64[Tensor, " d_vocab"]:
    """The gradient of the metric with respect to the logits, where all of them are equal."""
    first: Tensor | None = None
    with torch.inference_mode(mode=False), torch.enable_grad():
        for place in range(n_prompts):
            logits = torch.zeros(1, d_vocab, requires_grad=True)
            (slope,) = torch.autograd.grad(values(logits, [place]).sum(), logits)
            first = slope if first is None else first
            if not torch.equal(slope, first):
                raise InputError(
                    f"metric is {metric!r}, which differs between prompts, and "
                    "perturbation_probing takes one for all; give one target and one foil"
                )
    return cast("Tensor", first)[0].double()


def _check_what_neurons_write(model: HookedModel) -> None:
    """Raise ModelError unless one neuron of each dense MLP writes its output vector.

    In one pass over a token, each MLP has two rows: in one of them its neuron's activation is
    raised, in the other by twice as much. Behind the block, the stream must have moved along the
    output vector, and twice as far. A common factor of all that MLPs write does not matter.
    """
    moved = [
        (mlp.layer, *_strongest(projection))
        for mlp, projection in readable_projections(model, PerturbationProbing.name)
        if mlp.expert is None
    ]
    if not moved:
        return
    layers = [layer for layer, _, _ in moved]
    unmoved = _behind_blocks(model, layers, 1)
    names = {site.layer: site.dense for site in neuron_sites(model)}
    hooks = [
        (
            cast("str", names[layer]),
            partial(_raise, 2 * row, neuron, float(unmoved[layer].norm()), float(vector.norm())),
        )
        for row, (layer, neuron, vector) in enumerate(moved)
    ]
    streams = _behind_blocks(model, layers, 2 * len(moved) + 1, hooks)
    for row, (layer, _, vector) in enumerate(moved):
        stream = streams[layer]
        once, twice = stream[2 * row] - stream[-1], stream[2 * row + 1] - stream[-1]
        along = torch.cosine_similarity(once, vector, dim=0)
        as_written = along >= ALONG and (twice - 2 * once).norm() <= LINEAR * twice.norm()
        if vector.any() and not as_written:
            raise ModelError(
                f"a neuron of layer {layer} of {model_name(model)} does not write its output "
                "vector to the residual stream, as where a norm stands behind the MLP; use another "
                "ranking than perturbation_probing"
            )


def _behind_blocks(
    model: HookedModel, layers: Sequence[int], n_rows: int, hooks: Sequence[tuple[str, Any]] = ()
) -> dict[int, Float64[Tensor, "row d_model"]]:
    """Run a token in some rows, and return the residual stream behind some layers."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, stream: Tensor, hook: Any) -> None:  # noqa: ARG001
        found[layer] = stream[:, -1].detach().cpu().double()

    reads = [(f"blocks.{layer}.hook_resid_post", partial(keep, layer)) for layer in layers]
    # Not the first token, which is often padding, with an embedding of 0.
    token = int(model.cfg.d_vocab) // 2
    ids = torch.full((n_rows, 1), token, device=input_device(model))
    with torch.no_grad(), model.hooks(fwd_hooks=[*hooks, *reads]), prompt_lengths([1] * n_rows):
        forward_logits(model, ids, torch.ones_like(ids), None, 0)
    return found


def _strongest(projection: DownProjection) -> tuple[int, Float64[Tensor, " d_model"]]:
    """The neuron with the longest output vector, of the first ones, and this vector."""
    rows = projection.weight.movedim(projection.neuron_dim, 0)[:LOOKED_AT].detach().cpu().double()
    neuron = int(rows.norm(dim=1).argmax())
    return neuron, rows[neuron]


def _raise(
    row: int,
    neuron: int,
    stream: float,
    length: float,
    activation: Float[Tensor, "row 1 d_mlp"],
    hook: Any,  # noqa: ARG001
) -> Float[Tensor, "row 1 d_mlp"]:
    changed = activation.clone()
    limits = torch.finfo(activation.dtype)
    # As far as the stream is long; in bfloat16 farther, so that its rounding does not count.
    far = max(stream, 1.0) * (FARTHER if limits.eps > COARSE else 1)
    step = far / max(length, limits.tiny)
    changed[row, :, neuron] += step
    changed[row + 1, :, neuron] += 2 * step
    return changed
