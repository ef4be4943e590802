from .circuit import Circuit as Circuit
from .files import json_text as json_text, write_atomically as write_atomically
from .journal import Journal as Journal, read_journal as read_journal
from .layout import Layout as Layout
from .neurons import (
    MLP as MLP,
    AnyNeuron as AnyNeuron,
    ExpertNeuron as ExpertNeuron,
    Experts as Experts,
    Neuron as Neuron,
    Sign as Sign,
)
from .provenance import (
    PromptRecord as PromptRecord,
    Provenance as Provenance,
    Source as Source,
    UniversalRecord as UniversalRecord,
    library_versions as library_versions,
)
from .scores import NeuronScores as NeuronScores, circuit_size as circuit_size
from .statistics import (
    Estimate as Estimate,
    Rate as Rate,
    bootstrap_mean as bootstrap_mean,
    mcnemar as mcnemar,
    paired_bootstrap as paired_bootstrap,
    wilson as wilson,
)

__all__ = [
    "MLP",
    "AnyNeuron",
    "Circuit",
    "Estimate",
    "ExpertNeuron",
    "Experts",
    "Journal",
    "Layout",
    "Neuron",
    "NeuronScores",
    "PromptRecord",
    "Provenance",
    "Rate",
    "Sign",
    "Source",
    "UniversalRecord",
    "bootstrap_mean",
    "circuit_size",
    "json_text",
    "library_versions",
    "mcnemar",
    "paired_bootstrap",
    "read_journal",
    "wilson",
    "write_atomically",
]
