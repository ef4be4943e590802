"""What `-M NAME=VALUE` says to a model: which circuit steers it, and how."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import torch

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.loading.load import load_model
from cna_lens.models.running.positions import Positions, check_positions
from cna_lens.results.circuit import Circuit
from cna_lens.steering.methods.controls import matched_random
from cna_lens.steering.scaling import Steering, Via, check_multiplier, steer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OF_THE_HUB = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Arguments:
    """The arguments of one model.

    Attributes:
        circuit: steers the model; None leaves it as it is.
        multiplier: what the circuit's activations are multiplied with; 0 ablates.
        control: the seed of `matched_random`; random neurons of the same layers are then steered in
            place of the circuit's.
        positions: the tokens that are steered, as in `steer`.
        via: by "hooks", "weights" or "auto", as in `steer`.
        allow_other_model: accept a circuit from a model of another name.
        device: of the model.
        dtype: "float32", "bfloat16" or "float16".
        batch_size: the largest number of answers generated at once.
        hooked_model: a model that is loaded already, for Python; its name in Inspect is free.
    """

    circuit: Circuit | None = None
    multiplier: float | None = None
    control: int | None = None
    positions: Positions = "all"
    via: Via = "auto"
    allow_other_model: bool = False
    device: str | None = None
    dtype: str = "float32"
    batch_size: int = 32
    hooked_model: HookedModel | None = field(default=None, repr=False)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Arguments:
        """Take the values that Inspect hands over; a circuit may be a file or a name on the Hub.

        >>> Arguments.read({"batch_size": 8})
        Arguments(circuit=None, multiplier=None, control=None, positions='all', via='auto', ...

        Raises:
            InputError: an argument is unknown, or its value is not one that it takes.
            CircuitFileError: the circuit cannot be read from its file.
            HubError: the circuit cannot be read from the Hub.
        """
        known = [each.name for each in fields(cls)]
        if unknown := sorted(given.keys() - set(known)):
            raise InputError(
                f"-M {unknown[0]} is unknown to cna_lens; it takes {', '.join(sorted(known))}"
            )
        others = {name: value for name, value in given.items() if name != "circuit"}
        return cls(_circuit(given.get("circuit")), **others)

    def __post_init__(self) -> None:
        """Reject values that cannot be used, before a model is loaded."""
        if (self.circuit is None) != (self.multiplier is None):
            raise InputError(
                f"-M circuit is {self.circuit!r} and multiplier is {self.multiplier}; give both, "
                "such as -M circuit=circuit.json -M multiplier=0, or neither for the unsteered "
                "model"
            )
        if self.control is not None and self.circuit is None:
            raise InputError(f"-M control is {self.control}, and there is no circuit; give one")
        if isinstance(self.multiplier, bool):
            raise InputError(f"-M multiplier is {self.multiplier!r}, expected a finite number")
        if self.multiplier is not None:
            check_multiplier(self.multiplier, "-M multiplier")
        check_positions(self.positions)
        if self.via not in get_args(Via):
            raise InputError(f"-M via is {self.via!r}, expected one of {', '.join(get_args(Via))}")
        if self.dtype not in DTYPES:
            raise InputError(f"-M dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        for name in ("control", "batch_size"):
            value, least = getattr(self, name), int(name == "batch_size")
            if value is not None and (type(value) is not int or value < least):
                raise InputError(f"-M {name} is {value!r}, expected a whole number from {least}")
        if self.allow_other_model not in (True, False):
            raise InputError(
                f"-M allow_other_model is {self.allow_other_model!r}, expected true or false"
            )

    def load(self, name: str) -> HookedModel:
        """Return the loaded model, or load the one of this name, see `cna_lens.load_model`."""
        if self.hooked_model is not None:
            return self.hooked_model
        return load_model(name, device=self.device, dtype=DTYPES[self.dtype])

    @property
    def steered(self) -> Circuit | None:
        """The neurons that are steered: the circuit's, or those of its control."""
        if self.circuit is None or self.control is None:
            return self.circuit
        return matched_random(self.circuit, seed=self.control)

    @contextmanager
    def steering(self, model: HookedModel) -> Generator[Steering | None]:
        """Steer the model within the context, and yield how it is steered; None for not at all."""
        if self.steered is None:
            yield None
            return
        with steer(
            model,
            self.steered,
            self.multiplier,
            positions=self.positions,
            via=self.via,
            allow_other_model=self.allow_other_model,
        ) as steering:
            yield steering

    def record(self, model: HookedModel) -> dict[str, Any]:
        """What was done to the model, as plain data: the neurons, the scope and the hash."""
        record: dict[str, Any] = {"model": model_name(model), "steered": self.steered is not None}
        if self.circuit is None or self.steered is None:
            return record
        return record | {
            "neurons": [neuron.label for neuron in self.steered],
            "multiplier": self.multiplier,
            "positions": self.positions,
            "via": self.via,
            "control": self.control,
            # The hash of the file, which cannot know where on the Hub it was read.
            "circuit_sha256": self.circuit.with_provenance(hub=None).sha256,
            "circuit_model": self.circuit.provenance.model,
            "weights_sha256": self.circuit.provenance.weights_sha256,
            "hub": self.circuit.provenance.hub,
        }


def _circuit(given: Any) -> Circuit | None:
    if given is None or isinstance(given, Circuit):
        return given
    name = str(given)
    on_hub = OF_THE_HUB.fullmatch(name)
    if on_hub and not name.endswith(".json") and not Path(name).exists():
        return Circuit.from_hub(on_hub[1], revision=on_hub[2])
    return Circuit.load(name)
