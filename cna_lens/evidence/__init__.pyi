from .benchmark import bench_rankings as bench_rankings
from .curves import (
    LayerCounts as LayerCounts,
    NullCurves as NullCurves,
    SizeStability as SizeStability,
    StabilityCurves as StabilityCurves,
)
from .faithfulness import (
    Ablations as Ablations,
    Metric as Metric,
    Necessity as Necessity,
    ends_of as ends_of,
    necessity as necessity,
)
from .known_truth import (
    Found as Found,
    Recovery as Recovery,
    recall as recall,
    recovery as recovery,
)
from .late_layers import (
    LateShare as LateShare,
    Localization as Localization,
    localization as localization,
)
from .league import (
    Effect as Effect,
    League as League,
    OtherAblations as OtherAblations,
    Scored as Scored,
)
from .null import NullDistribution as NullDistribution, null_distribution as null_distribution
from .other_prompts import Stability as Stability, stability as stability
from .overlap import (
    Overlap as Overlap,
    Transfer as Transfer,
    expected_jaccard as expected_jaccard,
    jaccard as jaccard,
    transfer as transfer,
)
from .passes import Cost as Cost, counted as counted
from .resampling import ActivationSets as ActivationSets, bootstrap as bootstrap
from .selection import Selection as Selection

__all__ = [
    "Ablations",
    "ActivationSets",
    "Cost",
    "Effect",
    "Found",
    "LateShare",
    "LayerCounts",
    "League",
    "Localization",
    "Metric",
    "Necessity",
    "NullCurves",
    "NullDistribution",
    "OtherAblations",
    "Overlap",
    "Recovery",
    "Scored",
    "Selection",
    "SizeStability",
    "Stability",
    "StabilityCurves",
    "Transfer",
    "bench_rankings",
    "bootstrap",
    "counted",
    "ends_of",
    "expected_jaccard",
    "jaccard",
    "localization",
    "necessity",
    "null_distribution",
    "recall",
    "recovery",
    "stability",
    "transfer",
]
