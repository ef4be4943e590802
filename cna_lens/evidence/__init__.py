"""How sure one can be of a circuit: chance, resampling, transfer, necessity, place."""

from cna_lens.evidence.curves import (
    LayerCounts,
    NullCurves,
    SizeStability,
    StabilityCurves,
)
from cna_lens.evidence.localization import LateShare, Localization, localization
from cna_lens.evidence.necessity import Ablations, Metric, Necessity, necessity
from cna_lens.evidence.null import NullDistribution, null_distribution
from cna_lens.evidence.selection import Selection
from cna_lens.evidence.stability import Stability, stability
from cna_lens.evidence.transfer import Overlap, Transfer, expected_jaccard, jaccard, transfer

__all__ = [
    "Ablations",
    "LateShare",
    "LayerCounts",
    "Localization",
    "Metric",
    "Necessity",
    "NullCurves",
    "NullDistribution",
    "Overlap",
    "Selection",
    "SizeStability",
    "Stability",
    "StabilityCurves",
    "Transfer",
    "expected_jaccard",
    "jaccard",
    "localization",
    "necessity",
    "null_distribution",
    "stability",
    "transfer",
]
