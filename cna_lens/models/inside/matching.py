"""Check that a result belongs to a model before it is used there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

from cna_lens.errors import CircuitMismatchError, CnaLensError, CnaLensWarning, ModelError
from cna_lens.models.hooked_model import HookedModel, check_model, model_name
from cna_lens.models.inside.projections import DownProjection, down_projection
from cna_lens.models.inside.scalings import scaled_neurons
from cna_lens.models.inside.sites import neuron_sites
from cna_lens.models.inside.weights import weights_hash
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import MLP, Experts

Projections = dict[MLP, DownProjection | None]


def check_belongs(
    result: str,
    error: type[CnaLensError],
    model: HookedModel,
    *,
    sizes: Iterable[tuple[int, int, str]] = (),
    found_on: str | None,
    allow_other_model: bool,
) -> None:
    """Raise an error unless a result was found on a model of this shape and name.

    Args:
        result: what the message calls it, such as "the circuit".
        error: the class to raise.
        model: the model on which it is about to be used.
        sizes: the result's size, the model's size, and what they count.
        found_on: the name of the model it was found on, None where that is not known.
        allow_other_model: accept another name; the sizes must agree all the same.
    """
    name = model_name(model)
    for expected, there, unit in sizes:
        if expected != there:
            raise error(
                f"cannot use {result} here: found on a model with {expected} {unit}, {name} has "
                f"{there}; find {result} on this model"
            )
    if found_on is not None and found_on != name and not allow_other_model:
        raise error(
            f"cannot use {result} here: found on {found_on}, this model is {name}; find {result} "
            "on this model, or set allow_other_model=True if you mean it"
        )


def check_circuit(
    model: HookedModel, circuit: Circuit, *, allow_other_model: bool = False
) -> Projections:
    """Check that a circuit belongs to a model.

    Returns:
        The down projection of each of the circuit's MLPs, None for one that is no plain matrix.

    Raises:
        CircuitMismatchError: the model has another number of layers, another width, or another
            name.

    Warns:
        CnaLensWarning: the circuit was found on other weights of the same model, or on weights that
            cannot be compared because some are offloaded.
    """
    check_model(model)
    found_on, recorded_hash = circuit.provenance.model, circuit.provenance.weights_sha256
    projections: Projections = {}
    check_belongs(
        "the circuit",
        CircuitMismatchError,
        model,
        sizes=_sizes(model, circuit, projections),
        found_on=found_on,
        allow_other_model=allow_other_model,
    )
    name = model_name(model)
    # Inside another steer() by weights the hash says nothing about the model.
    comparable = found_on == name and recorded_hash and not scaled_neurons(model)
    if comparable and (doubt := _doubt(model, recorded_hash)):
        warnings.warn(doubt, CnaLensWarning, stacklevel=4)
    return projections


def _doubt(model: HookedModel, recorded_hash: str | None) -> str | None:
    """Say why the model's weights may not be those that a hash was recorded of."""
    name = model_name(model)
    try:
        found = weights_hash(model)
    except ModelError as error:
        return f"the weights of {name} cannot be compared with those of the circuit: {error}"
    if found == recorded_hash:
        return None
    return (
        f"the circuit was found on other weights of {name}: the hash recorded with it differs "
        "from this model's"
    )


def _sizes(
    model: HookedModel, circuit: Circuit, projections: Projections
) -> Iterator[tuple[int, int, str]]:
    """Yield what must agree; on the way, look up the projections of the layers that do."""
    sites, layout = neuron_sites(model), circuit.layout
    yield layout.n_layers, len(sites), "layers"
    for layer in circuit.by_layer():
        expected = layout.experts[layer] if layout.experts else Experts(0, 0)
        there = getattr(sites[layer].experts, "shape", Experts(0, 0))
        yield expected.count, there.count, f"experts in layer {layer}"
        yield expected.width, there.width, f"neurons in each expert of layer {layer}"
    for mlp in circuit.by_mlp():
        projection = projections[mlp] = down_projection(model, mlp)
        if projection is not None:
            yield layout.width(mlp), projection.width, f"neurons in {mlp}"
