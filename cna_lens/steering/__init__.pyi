from .comparison.run import compare as compare
from .comparison.table import Comparison as Comparison, Outcome as Outcome, Row as Row
from .method import Applied as Applied, SteeringMethod as SteeringMethod
from .methods.anchor import (
    Anchor as Anchor,
    MagnitudeAnchor as MagnitudeAnchor,
    magnitude_anchor as magnitude_anchor,
)
from .methods.caa import (
    VectorAddition as VectorAddition,
    caa as caa,
    caa_candidates as caa_candidates,
)
from .methods.choice import Choice as Choice, Prefer as Prefer, choose as choose
from .methods.controls import matched_random as matched_random, random_direction as random_direction
from .methods.directional import (
    DirectionalAblation as DirectionalAblation,
    directional_ablation as directional_ablation,
    directional_ablation_candidates as directional_ablation_candidates,
)
from .methods.neurons import (
    NeuronPull as NeuronPull,
    NeuronScaling as NeuronScaling,
    ablation as ablation,
    deviation_scaling as deviation_scaling,
    mean_ablation as mean_ablation,
)
from .methods.sae.autoencoder import SparseAutoencoder as SparseAutoencoder, load_sae as load_sae
from .methods.sae.features import SaeFeatures as SaeFeatures, sae_features as sae_features
from .methods.sae.scaling import FeatureScaling as FeatureScaling
from .scaling import (
    Steering as Steering,
    Via as Via,
    scale as scale,
    set_to as set_to,
    steer as steer,
)
from .vectors import ControlVectors as ControlVectors, difference_of_means as difference_of_means

__all__ = [
    "Anchor",
    "Applied",
    "Choice",
    "Comparison",
    "ControlVectors",
    "DirectionalAblation",
    "FeatureScaling",
    "MagnitudeAnchor",
    "NeuronPull",
    "NeuronScaling",
    "Outcome",
    "Prefer",
    "Row",
    "SaeFeatures",
    "SparseAutoencoder",
    "Steering",
    "SteeringMethod",
    "VectorAddition",
    "Via",
    "ablation",
    "caa",
    "caa_candidates",
    "choose",
    "compare",
    "deviation_scaling",
    "difference_of_means",
    "directional_ablation",
    "directional_ablation_candidates",
    "load_sae",
    "magnitude_anchor",
    "matched_random",
    "mean_ablation",
    "random_direction",
    "sae_features",
    "scale",
    "set_to",
    "steer",
]
