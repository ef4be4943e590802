"""Contrastive Neuron Attribution for TransformerLens.

Find the MLP neurons whose activation differs most between prompts that show a behaviour and
prompts that do not, and test whether they cause it:

    model = cna_lens.load_model("demo")
    circuit = cna_lens.find_circuit(model, positive, negative)
    with cna_lens.steer(model, circuit, multiplier=0.0):
        answers = cna_lens.generate(model, prompts)
"""

from cna_lens.activations import PromptActivations
from cna_lens.baselines import (
    Anchor,
    Choice,
    DirectionalAblation,
    MagnitudeAnchor,
    NeuronPull,
    NeuronScaling,
    VectorAddition,
    ablation,
    caa,
    caa_candidates,
    choose,
    difference_of_means,
    directional_ablation,
    directional_ablation_candidates,
    magnitude_anchor,
    matched_random,
    mean_ablation,
    random_direction,
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
from cna_lens.first_token import LogitDifference, LogOdds
from cna_lens.generation import generate
from cna_lens.metrics import is_refusal, ngram_quality
from cna_lens.models import load_model
from cna_lens.moments import ActivationStats
from cna_lens.pipeline import find_circuit
from cna_lens.positions import prompt_lengths
from cna_lens.prompt_files import read_prompts
from cna_lens.prompt_sets import PromptSet, diverse_prompts, prompt_set
from cna_lens.ranking import NeuronScores, circuit_size
from cna_lens.rankings import (
    RANKINGS,
    AttributionPatching,
    Contrast,
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
from cna_lens.statistics import bootstrap_mean, mcnemar, paired_bootstrap, wilson
from cna_lens.steering import Steering, scale, set_to, steer
from cna_lens.steering_method import Applied, SteeringMethod
from cna_lens.types import Estimate, Layout, Neuron, PromptRecord, Rate, Source
from cna_lens.universal import UniversalNeurons, UniversalRule, filter_universal
from cna_lens.vectors import ControlVectors
from cna_lens.weights import weights_hash

__all__ = [
    "RANKINGS",
    "ActivationError",
    "ActivationStats",
    "Anchor",
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
    "ControlVectors",
    "DirectionalAblation",
    "Estimate",
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
    "PromptActivations",
    "PromptRecord",
    "PromptSet",
    "Provenance",
    "RandomScores",
    "Ranking",
    "Rate",
    "RelP",
    "Requirements",
    "Selection",
    "Source",
    "Standardized",
    "Steering",
    "SteeringMethod",
    "UniversalNeurons",
    "UniversalRecord",
    "UniversalRule",
    "VectorAddition",
    "VectorMismatchError",
    "ablation",
    "bootstrap_mean",
    "caa",
    "caa_candidates",
    "choose",
    "circuit_size",
    "collect",
    "compare",
    "difference_of_means",
    "directional_ablation",
    "directional_ablation_candidates",
    "diverse_prompts",
    "filter_universal",
    "find_circuit",
    "generate",
    "is_refusal",
    "jaccard",
    "load_model",
    "localization",
    "magnitude_anchor",
    "matched_random",
    "mcnemar",
    "mean_ablation",
    "necessity",
    "ngram_quality",
    "null_distribution",
    "paired_bootstrap",
    "prompt_lengths",
    "prompt_set",
    "random_direction",
    "rank",
    "read_prompts",
    "requirements",
    "scale",
    "score_neurons",
    "set_to",
    "stability",
    "steer",
    "transfer",
    "universal_neurons",
    "weights_hash",
    "wilson",
]
