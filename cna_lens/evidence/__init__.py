"""How sure one can be of a circuit: chance, resampling, transfer, necessity, place."""

from cna_lens.evidence.null import NullDistribution, null_distribution
from cna_lens.evidence.selection import Selection

__all__ = [
    "NullDistribution",
    "Selection",
    "null_distribution",
]
