r"""How far a small change of the weights moves a token's lead, to first order.

Let every neuron's output weights be multiplied with $1 + \epsilon \xi_i$, where the $\xi_i$ are
independent with mean 0 and standard deviation 1. A margin $m$ then changes by a number with mean 0
and, of the neurons of layer $l$, with the standard deviation $\epsilon s_l$,

$$s_l^2 = \sum_{i \in l} \Big( \sum_t a_{ti} \, \frac{\partial m}{\partial a_{ti}} \Big)^2,$$

with the activations $a_{ti}$ at all tokens. That prompts of high sensitivity to the weights make
the best canaries is the idea of ESF (Guan et al., ACL Findings 2025) and RESF (EMNLP 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from cna_lens.discovery.activations.reader import Reader
from cna_lens.discovery.rankings.gradients import GradientBatch, over_batches
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import TokenIds
from cna_lens.models.running.batching import BatchSize


def layer_sensitivity(
    model: HookedModel,
    prompts: Sequence[TokenIds],
    tokens: Sequence[int],
    *,
    batch_size: BatchSize = "auto",
    progress: bool = False,
) -> Float64[Tensor, "prompt layer"]:
    """The number s of each layer with MLP neurons: the change of the margin per relative change.

    Tokens that all prompts begin with are computed once, and what a change does there is left out.

    >>> layer_sensitivity(tiny_model, [(5, 6), (7, 8, 9)], [3, 4]).shape
    torch.Size([2, 2])

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: as token ids.
        tokens: for each prompt, the next token whose logit is compared with the largest other one.
        batch_size: prompts for each pass, or "auto".
        progress: show a progress bar.

    Raises:
        ModelError: the activations of a layer cannot be differentiated.
        ActivationError: a gradient is infinite or not a number.
    """
    wanted = torch.tensor(list(tokens))

    def run(batch: GradientBatch) -> tuple[list[int], Tensor]:
        first = int(batch.last.min())

        def total(logits: Float[Tensor, "batch kept_pos d_vocab"]) -> Float[Tensor, ""]:
            rows = torch.arange(len(logits), device=logits.device)
            at_last = logits[rows, (batch.last - first).to(logits.device)].float()
            own = wanted[batch.prompts].to(logits.device)[:, None]
            others = at_last.scatter(1, own, float("-inf")).amax(1)
            return (at_last.gather(1, own).squeeze(1) - others).sum()

        found = batch.at_all_tokens(total, first)
        of_neurons = [(each.activations * each.gradients).double().sum(1) for each in found]
        return batch.prompts, torch.stack([each.norm(dim=1).cpu() for each in of_neurons], 1)

    places: list[int] = []
    parts: list[Tensor] = []
    reader = Reader(model, -1, batch_size, progress)
    for rows, part in over_batches(reader, prompts, run, "sensitivity"):
        places.extend(rows)
        parts.append(part)
    return torch.cat(parts)[torch.tensor(places).argsort()]


def flips(
    margins: Float64[Tensor, " answer"],
    sensitivity: Float64[Tensor, "answer layer"],
    change: float,
) -> Float64[Tensor, "answer layer"]:
    r"""The probability that a change of one layer's neurons alone moves each answer.

    To first order, and with a normal distribution: $\Phi(-m / (\epsilon s_l))$.

    >>> flips(torch.tensor([1.0]).double(), torch.tensor([[10.0, 0.0]]).double(), change=0.1)
    tensor([[0.1587, 0.0000]], dtype=torch.float64)

    Args:
        margins: by how far the answer's token leads, above 0.
        sensitivity: the number s of each layer.
        change: the relative change of the neurons' output weights, ε.
    """
    return torch.special.ndtr(-margins[:, None] / (change * sensitivity))


def covering(probabilities: Float64[Tensor, "answer layer"], n: int) -> list[int]:
    r"""Choose answers one after the other so that changes of all layers move some of them.

    Each choice adds most to $\sum_l \log(1 + \sum_{c} q_{cl})$ over the chosen answers $c$. The sum
    is submodular, so what is reached is at least $1 - 1/e$ of the best choice (Nemhauser, Wolsey
    and Fisher, Mathematical Programming 14, 1978).

    >>> covering(torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.0, 0.5]]).double(), n=2)
    [0, 2]

    Args:
        probabilities: that a change of one layer moves an answer, q.
        n: how many answers to choose.
    """
    chosen: list[int] = []
    moved = torch.zeros(probabilities.shape[1], dtype=torch.float64)
    left = torch.ones(len(probabilities), dtype=torch.bool)
    for _ in range(n):
        gains = torch.log1p(moved + probabilities).sum(1).where(left, -torch.inf)
        best = int(gains.argmax())
        chosen.append(best)
        left[best] = False
        moved = moved + probabilities[best]
    return chosen
