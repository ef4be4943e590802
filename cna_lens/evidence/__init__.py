"""How sure one can be of a circuit: chance, resampling, transfer, necessity, place."""

from cna_lens.evidence.localization import LateShare, Localization, localization
from cna_lens.evidence.necessity import Ablations, Metric, Necessity, necessity
from cna_lens.evidence.null import NullDistribution, null_distribution
from cna_lens.evidence.selection import Selection
from cna_lens.evidence.stability import SizeStability, Stability, stability
from cna_lens.evidence.transfer import Overlap, Transfer, expected_jaccard, jaccard, transfer

__all__ = [
    "Ablations",
    "LateShare",
    "Localization",
    "Metric",
    "Necessity",
    "NullDistribution",
    "Overlap",
    "Selection",
    "SizeStability",
    "Stability",
    "Transfer",
    "expected_jaccard",
    "jaccard",
    "localization",
    "necessity",
    "null_distribution",
    "stability",
    "transfer",
]
