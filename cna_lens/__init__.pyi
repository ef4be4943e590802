from . import audit as audit, evidence as evidence, metrics as metrics
from .activations import PromptActivations as PromptActivations
from .baselines import (
    Anchor as Anchor,
    Choice as Choice,
    DirectionalAblation as DirectionalAblation,
    FeatureScaling as FeatureScaling,
    MagnitudeAnchor as MagnitudeAnchor,
    NeuronPull as NeuronPull,
    NeuronScaling as NeuronScaling,
    SaeFeatures as SaeFeatures,
    SparseAutoencoder as SparseAutoencoder,
    VectorAddition as VectorAddition,
    ablation as ablation,
    caa as caa,
    caa_candidates as caa_candidates,
    choose as choose,
    deviation_scaling as deviation_scaling,
    difference_of_means as difference_of_means,
    directional_ablation as directional_ablation,
    directional_ablation_candidates as directional_ablation_candidates,
    load_sae as load_sae,
    magnitude_anchor as magnitude_anchor,
    matched_random as matched_random,
    mean_ablation as mean_ablation,
    random_direction as random_direction,
    sae_features as sae_features,
)
from .collection import (
    collect as collect,
    universal_neurons as universal_neurons,
)
from .comparison import (
    Comparison as Comparison,
    compare as compare,
)
from .errors import (
    ActivationError as ActivationError,
    CircuitFileError as CircuitFileError,
    CircuitMismatchError as CircuitMismatchError,
    CnaLensError as CnaLensError,
    CnaLensWarning as CnaLensWarning,
    FingerprintError as FingerprintError,
    GenerationInterrupted as GenerationInterrupted,
    InputError as InputError,
    ModelError as ModelError,
    VectorMismatchError as VectorMismatchError,
)
from .evidence import (
    Selection as Selection,
    jaccard as jaccard,
    localization as localization,
    necessity as necessity,
    null_distribution as null_distribution,
    stability as stability,
    transfer as transfer,
)
from .first_token import (
    LogitDifference as LogitDifference,
    LogOdds as LogOdds,
)
from .metrics import (
    is_refusal as is_refusal,
    ngram_quality as ngram_quality,
)
from .models.estimate import Requirements as Requirements, requirements as requirements
from .models.inside.expert_hooks import expert_hooks as expert_hooks
from .models.inside.weights import weights_hash as weights_hash
from .models.loading.load import load_model as load_model
from .models.prompts.files import read_prompts as read_prompts
from .models.prompts.sets import (
    PromptSet as PromptSet,
    diverse_prompts as diverse_prompts,
    prompt_set as prompt_set,
)
from .models.running.generation import generate as generate, stream as stream
from .models.running.positions import prompt_lengths as prompt_lengths
from .models.tokens.answer_log_probs import (
    AnswerLogProbs as AnswerLogProbs,
    answer_log_probs as answer_log_probs,
)
from .models.tokens.promoted_tokens import (
    PromotedTokens as PromotedTokens,
    promoted_tokens as promoted_tokens,
)
from .models.tokens.token_activations import (
    TokenActivations as TokenActivations,
    token_activations as token_activations,
)
from .moments import ActivationStats as ActivationStats, RoutingStats as RoutingStats
from .pipeline import find_circuit as find_circuit
from .rankings import (
    RANKINGS as RANKINGS,
    AttributionPatching as AttributionPatching,
    Contrast as Contrast,
    ContrastPart as ContrastPart,
    OutputWeighted as OutputWeighted,
    Probe as Probe,
    RandomScores as RandomScores,
    Ranking as Ranking,
    RelP as RelP,
    Standardized as Standardized,
    rank as rank,
    score_neurons as score_neurons,
)
from .results.circuit import Circuit as Circuit
from .results.layout import Layout as Layout
from .results.neurons import (
    MLP as MLP,
    ExpertNeuron as ExpertNeuron,
    Experts as Experts,
    Neuron as Neuron,
)
from .results.provenance import (
    PromptRecord as PromptRecord,
    Provenance as Provenance,
    Source as Source,
    UniversalRecord as UniversalRecord,
)
from .results.scores import NeuronScores as NeuronScores, circuit_size as circuit_size
from .results.statistics import (
    Estimate as Estimate,
    Rate as Rate,
    bootstrap_mean as bootstrap_mean,
    mcnemar as mcnemar,
    paired_bootstrap as paired_bootstrap,
    wilson as wilson,
)
from .steering import (
    Steering as Steering,
    scale as scale,
    set_to as set_to,
    steer as steer,
)
from .steering_method import (
    Applied as Applied,
    SteeringMethod as SteeringMethod,
)
from .universal import (
    UniversalNeurons as UniversalNeurons,
    UniversalRule as UniversalRule,
    filter_universal as filter_universal,
)
from .vectors import ControlVectors as ControlVectors

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
    "FingerprintError",
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
    "audit",
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
    "evidence",
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
    "metrics",
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
