"""Which token comes next: the likeliest, or one drawn for each prompt by itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.batching import TokenIds


def seeds_of(encoded: Sequence[TokenIds], seed: int) -> list[int]:
    """A seed for each prompt: its own wherever it stands, another where it stands again."""
    occurrences: Counter[TokenIds] = Counter()
    seeds: list[int] = []
    for ids in encoded:
        key = json.dumps([seed, occurrences[ids], ids])
        seeds.append(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]))
        occurrences[ids] += 1
    return seeds


class Chooser:
    """Takes the likeliest token, or draws one with a generator of each prompt's own."""

    def __init__(self, temperature: float, seeds: Sequence[int]) -> None:
        """Take the temperature, 0 for the likeliest token, and a seed for each prompt."""
        self.temperature = temperature
        self.seeds = seeds
        self.generators: dict[int, torch.Generator] = {}

    def __call__(
        self, logits: Float[Tensor, "batch d_vocab"], rows: Sequence[int], step: int
    ) -> list[int]:
        """The next token of each row, which is the prompt of that number."""
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        chances = (logits.double() / self.temperature).softmax(-1).cumsum(-1).cpu()
        draws = torch.cat([self._draw(row, step) for row in rows])
        chosen = torch.searchsorted(chances, draws[:, None] * chances[:, -1:]).squeeze(1)
        return chosen.clamp(max=logits.shape[-1] - 1).tolist()

    def _draw(self, row: int, step: int) -> Float[Tensor, " 1"]:
        if step == 0:
            self.generators[row] = torch.Generator().manual_seed(self.seeds[row])
        return torch.rand(1, generator=self.generators[row], dtype=torch.float64)
