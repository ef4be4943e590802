"""What a circuit is compared with."""

from cna_lens.baselines.random import matched_random

__all__ = ["matched_random"]
