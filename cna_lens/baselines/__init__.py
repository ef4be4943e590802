"""What a circuit is compared with: random controls, and other ways to steer."""

from cna_lens.baselines.anchor import Anchor, MagnitudeAnchor, magnitude_anchor
from cna_lens.baselines.autoencoder import SparseAutoencoder, load_sae
from cna_lens.baselines.caa import VectorAddition, caa, caa_candidates
from cna_lens.baselines.choice import Choice, choose
from cna_lens.baselines.difference import difference_of_means
from cna_lens.baselines.directional import (
    DirectionalAblation,
    directional_ablation,
    directional_ablation_candidates,
)
from cna_lens.baselines.feature_scaling import FeatureScaling
from cna_lens.baselines.features import SaeFeatures, sae_features
from cna_lens.baselines.neurons import (
    NeuronPull,
    NeuronScaling,
    ablation,
    deviation_scaling,
    mean_ablation,
)
from cna_lens.baselines.random import matched_random
from cna_lens.baselines.random_direction import random_direction

__all__ = [
    "Anchor",
    "Choice",
    "DirectionalAblation",
    "FeatureScaling",
    "MagnitudeAnchor",
    "NeuronPull",
    "NeuronScaling",
    "SaeFeatures",
    "SparseAutoencoder",
    "VectorAddition",
    "ablation",
    "caa",
    "caa_candidates",
    "choose",
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
]
