"""A check that a circuit belongs to a model."""

from __future__ import annotations

import warnings

from cna_lens.errors import CircuitMismatchError, CnaLensWarning
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.projections import down_projection
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.models.inside.weights import edited_neurons, weights_hash
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Experts


def check_circuit(model: HookedModel, circuit: Circuit, *, allow_other_model: bool = False) -> None:
    """Require that a circuit belongs to a model.

    Raises:
        CircuitMismatchError: the numbers of layers, experts or neurons differ, or the names.

    Warns:
        CnaLensWarning: the circuit was found on other weights of the same model.
    """
    sites = neuron_sites(model)
    n_layers = len(sites)
    name = model_name(model)
    if circuit.layout.n_layers != n_layers:
        raise CircuitMismatchError(
            f"the circuit is of a model with {circuit.layout.n_layers} layers, "
            f"{name} has {n_layers}; find a circuit on this model"
        )
    for layer in circuit.by_layer():
        there = getattr(sites[layer].experts, "shape", Experts(0, 0))
        expected = circuit.layout.experts[layer] if circuit.layout.experts else Experts(0, 0)
        if there != expected:
            raise CircuitMismatchError(
                f"the circuit is of a model with {expected.count} experts of {expected.width} "
                f"neurons in layer {layer}, {name} has {there.count} of {there.width}; find a "
                "circuit on this model"
            )
    for mlp in circuit.by_mlp():
        projection = down_projection(model, mlp)
        if projection is not None and projection.width != circuit.layout.width(mlp):
            raise CircuitMismatchError(
                f"the circuit is of a model with {circuit.layout.width(mlp)} neurons in {mlp}, "
                f"{name} has {projection.width}; find a circuit on this model"
            )
    found_on = circuit.provenance.model
    if found_on is not None and found_on != name and not allow_other_model:
        raise CircuitMismatchError(
            f"the circuit was found on {found_on}, this model is {name}; find a circuit on this "
            "model, or pass allow_other_model=True to use it all the same"
        )
    expected = circuit.provenance.weights_sha256
    # Inside another steer() by weights, the hash is that of edited weights.
    comparable = found_on == name and expected and not edited_neurons(model)
    if comparable and weights_hash(model) != expected:
        warnings.warn(
            f"the circuit was found on other weights of {name}: its recorded hash differs from "
            "this model's; find the circuit again if the change was not intended",
            CnaLensWarning,
            stacklevel=4,
        )
