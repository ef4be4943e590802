from .activations.means import ActivationStats as ActivationStats, RoutingStats as RoutingStats
from .activations.per_prompt import PromptActivations as PromptActivations
from .activations.reader import Reader as Reader
from .collection import collect as collect
from .pipeline import find_circuit as find_circuit
from .rankings.attribution_patching import AttributionPatching as AttributionPatching
from .rankings.change_from_base import ChangeFromBase as ChangeFromBase
from .rankings.contrasts import (
    Contrast as Contrast,
    ContrastPart as ContrastPart,
    OutputWeighted as OutputWeighted,
    RandomScores as RandomScores,
    Standardized as Standardized,
)
from .rankings.gradients import GradientBatch as GradientBatch, over_batches as over_batches
from .rankings.learned_mask import LearnedMask as LearnedMask
from .rankings.mask_training import MaskRanking as MaskRanking
from .rankings.node_pruning import NodePruning as NodePruning
from .rankings.perturbation_probing import PerturbationProbing as PerturbationProbing
from .rankings.probe import Probe as Probe
from .rankings.protocol import (
    Collected as Collected,
    Needs as Needs,
    Ranking as Ranking,
    read_sets as read_sets,
)
from .rankings.relp import RelP as RelP
from .rankings.scoring import (
    RANKINGS as RANKINGS,
    as_ranking as as_ranking,
    rank as rank,
    score_neurons as score_neurons,
)
from .rankings.squared_attribution import SquaredAttribution as SquaredAttribution
from .universal import (
    UniversalNeurons as UniversalNeurons,
    UniversalRule as UniversalRule,
    filter_universal as filter_universal,
    universal_neurons as universal_neurons,
)

__all__ = [
    "RANKINGS",
    "ActivationStats",
    "AttributionPatching",
    "ChangeFromBase",
    "Collected",
    "Contrast",
    "ContrastPart",
    "GradientBatch",
    "LearnedMask",
    "MaskRanking",
    "Needs",
    "NodePruning",
    "OutputWeighted",
    "PerturbationProbing",
    "Probe",
    "PromptActivations",
    "RandomScores",
    "Ranking",
    "Reader",
    "RelP",
    "RoutingStats",
    "SquaredAttribution",
    "Standardized",
    "UniversalNeurons",
    "UniversalRule",
    "as_ranking",
    "collect",
    "filter_universal",
    "find_circuit",
    "over_batches",
    "rank",
    "read_sets",
    "score_neurons",
    "universal_neurons",
]
