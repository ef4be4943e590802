"""Attributions under noise, squared and averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cna_lens.discovery import Collected, Needs, Ranking
from cna_lens.models import HookedModel, hook_name
from cna_lens.results import NeuronScores


@dataclass(frozen=True)
class Smoothed(Ranking):
    r"""Another ranking while all neurons are noisy; root mean square over draws.

    $$s_i^2 = \frac{1}{K} \sum_{k=1}^K s'_i(a \odot (1 + \sigma \epsilon_k))^2, \qquad
    \epsilon_k \sim N(0, 1) \text{ for each neuron and token}$$

    A neuron that others make redundant has a gradient where some of them fail. With an inner
    ranking of squared attributions, s is the root mean square over tokens and draws. Only passes
    that are differentiated are noisy, so that answers stay as they are.

    Source: SmoothGrad, Smilkov et al., arXiv 1706.03825, squared as in Hooker et al., arXiv
    1806.10758; noise that multiplies neurons instead of noise on the input is ours. Cost: that of
    the inner ranking, K times.

    Attributes:
        inner: a ranking that takes gradients.
        size: $\sigma$.
        draws: K.
        seed: of the noise.
    """

    inner: Ranking
    size: float = 0.3
    draws: int = 1
    seed: int = 0
    name: ClassVar[str] = "smoothed"
    needs: ClassVar[Needs] = "gradients"

    def check(self, model: HookedModel, n_positive: int, n_negative: int) -> None:
        """Raise what the inner ranking raises."""
        self.inner.check(model, n_positive, n_negative)

    def score(self, collected: Collected) -> NeuronScores:
        """Score every neuron."""
        model = collected.model
        generator = torch.Generator().manual_seed(self.seed)

        def noisy(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            if not torch.is_grad_enabled():
                return value
            noise = torch.randn(value.shape, generator=generator)
            return value * (1 + self.size * noise.to(value))

        hooks = [(hook_name(layer), noisy) for layer in range(int(model.cfg.n_layers))]
        squares = torch.zeros(collected.positive.layout.n_neurons, dtype=torch.float64)
        for _ in range(self.draws):
            with model.hooks(fwd_hooks=hooks):
                found = self.inner.score(collected)
            squares += found.values.pow(2)
        return collected.scored(self, (squares / self.draws).sqrt(), found.unit)
