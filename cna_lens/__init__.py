"""Contrastive Neuron Attribution for TransformerLens.

Find the MLP neurons whose activation differs most between prompts that show a behaviour and
prompts that do not, and test whether they cause it:

    model = cna_lens.load_model("demo")
    circuit = cna_lens.find_circuit(model, positive, negative)
    with cna_lens.steer(model, circuit, multiplier=0.0):
        answers = cna_lens.generate(model, prompts)
"""

from cna_lens.activations import PromptActivations
from cna_lens.answer_log_probs import AnswerLogProbs, answer_log_probs
from cna_lens.baselines import (
    Anchor,
    Choice,
    DirectionalAblation,
    FeatureScaling,
    MagnitudeAnchor,
    NeuronPull,
    NeuronScaling,
    SaeFeatures,
    SparseAutoencoder,
    VectorAddition,
    ablation,
    caa,
    caa_candidates,
    choose,
    deviation_scaling,
    difference_of_means,
    directional_ablation,
    directional_ablation_candidates,
    load_sae,
    magnitude_anchor,
    matched_random,
    mean_ablation,
    random_direction,
    sae_features,
)
from cna_lens.circuit import Circuit, Provenance, UniversalRecord
from cna_lens.collection import collect, universal_neurons
from cna_lens.comparison import Comparison, compare
from cna_lens.errors import (
    ActivationError,
    CircuitFileError,
    CircuitMismatchError,
    CnaLensError,
    CnaLensWarning,
    GenerationInterrupted,
    InputError,
    ModelError,
    VectorMismatchError,
)
from cna_lens.evidence import (
    Selection,
    jaccard,
    localization,
    necessity,
    null_distribution,
    stability,
    transfer,
)
from cna_lens.expert_hooks import expert_hooks
from cna_lens.first_token import LogitDifference, LogOdds
from cna_lens.generation import generate, stream
from cna_lens.metrics import is_refusal, ngram_quality
from cna_lens.models import load_model
from cna_lens.moments import ActivationStats
from cna_lens.neurons import MLP, ExpertNeuron, Experts, Neuron
from cna_lens.pipeline import find_circuit
from cna_lens.positions import prompt_lengths
from cna_lens.promoted_tokens import PromotedTokens, promoted_tokens
from cna_lens.prompt_files import read_prompts
from cna_lens.prompt_sets import PromptSet, diverse_prompts, prompt_set
from cna_lens.ranking import NeuronScores, circuit_size
from cna_lens.rankings import (
    RANKINGS,
    AttributionPatching,
    Contrast,
    ContrastPart,
    OutputWeighted,
    Probe,
    RandomScores,
    Ranking,
    RelP,
    Standardized,
    rank,
    score_neurons,
)
from cna_lens.requirements import Requirements, requirements
from cna_lens.routing import RoutingStats
from cna_lens.statistics import bootstrap_mean, mcnemar, paired_bootstrap, wilson
from cna_lens.steering import Steering, scale, set_to, steer
from cna_lens.steering_method import Applied, SteeringMethod
from cna_lens.token_activations import TokenActivations, token_activations
from cna_lens.types import Estimate, Layout, PromptRecord, Rate, Source
from cna_lens.universal import UniversalNeurons, UniversalRule, filter_universal
from cna_lens.vectors import ControlVectors
from cna_lens.weights import weights_hash

__all__ = [
    "MLP",
    "RANKINGS",
    "ActivationError",
    "ActivationStats",
    "Anchor",
    "AnswerLogProbs",
    "Applied",
    "AttributionPatching",
    "Choice",
    "Circuit",
    "CircuitFileError",
    "CircuitMismatchError",
    "CnaLensError",
    "CnaLensWarning",
    "Comparison",
    "Contrast",
    "ContrastPart",
    "ControlVectors",
    "DirectionalAblation",
    "Estimate",
    "ExpertNeuron",
    "Experts",
    "FeatureScaling",
    "GenerationInterrupted",
    "InputError",
    "Layout",
    "LogOdds",
    "LogitDifference",
    "MagnitudeAnchor",
    "ModelError",
    "Neuron",
    "NeuronPull",
    "NeuronScaling",
    "NeuronScores",
    "OutputWeighted",
    "Probe",
    "PromotedTokens",
    "PromptActivations",
    "PromptRecord",
    "PromptSet",
    "Provenance",
    "RandomScores",
    "Ranking",
    "Rate",
    "RelP",
    "Requirements",
    "RoutingStats",
    "SaeFeatures",
    "Selection",
    "Source",
    "SparseAutoencoder",
    "Standardized",
    "Steering",
    "SteeringMethod",
    "TokenActivations",
    "UniversalNeurons",
    "UniversalRecord",
    "UniversalRule",
    "VectorAddition",
    "VectorMismatchError",
    "ablation",
    "answer_log_probs",
    "bootstrap_mean",
    "caa",
    "caa_candidates",
    "choose",
    "circuit_size",
    "collect",
    "compare",
    "deviation_scaling",
    "difference_of_means",
    "directional_ablation",
    "directional_ablation_candidates",
    "diverse_prompts",
    "expert_hooks",
    "filter_universal",
    "find_circuit",
    "generate",
    "is_refusal",
    "jaccard",
    "load_model",
    "load_sae",
    "localization",
    "magnitude_anchor",
    "matched_random",
    "mcnemar",
    "mean_ablation",
    "necessity",
    "ngram_quality",
    "null_distribution",
    "paired_bootstrap",
    "promoted_tokens",
    "prompt_lengths",
    "prompt_set",
    "random_direction",
    "rank",
    "read_prompts",
    "requirements",
    "sae_features",
    "scale",
    "score_neurons",
    "set_to",
    "stability",
    "steer",
    "stream",
    "token_activations",
    "transfer",
    "universal_neurons",
    "weights_hash",
    "wilson",
]
