"""Planted models: the demo model with a behaviour trained into neurons that are known.

Only the planted neurons' weights differ from the demo model's: their rows of the gate and up
projections, and their columns of the down projection. A file beside this module holds these
differences, and says which neurons they are. `experiments.planted` trains and checks the models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from cna_lens.errors import InputError, ModelError
from cna_lens.results.circuit import Circuit
from cna_lens.results.files import file_sha256, write_atomically
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import Neuron
from cna_lens.results.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Mapping

Split = Literal["tuning", "reporting"]

PLANTED_FOLDER: Final = Path(__file__).parent
PLANTED_PREFIX: Final = "planted/"
PLANTED_INDEX: Final = "index.json"
"""The hash of each planted model's file, by the model's name without its prefix."""
PLANTED_FORMAT: Final = "cna_lens.planted 1"


@dataclass(frozen=True)
class Planting:
    """What was planted: a behaviour, its neurons, and how they differ from the demo model.

    Attributes:
        behaviour: its name in `cna_lens.metrics.BEHAVIOURS`; None where nothing was planted, and
            the neurons' weights were changed at random.
        split: whether a ranking may be tuned on this model, or is only reported on it.
        neurons: the planted neurons.
        gate: what was added to their rows of the gate projection.
        up: what was added to their rows of the up projection.
        down: what was added to their columns of the down projection.
        base_sha256: the hash of the demo model's weights.
        record: how it was trained and what was measured.
        decoy: a second behaviour, planted before in other neurons.
    """

    behaviour: str | None
    split: Split
    neurons: tuple[Neuron, ...]
    gate: Float[Tensor, "n d_model"] = field(repr=False)
    up: Float[Tensor, "n d_model"] = field(repr=False)
    down: Float[Tensor, "n d_model"] = field(repr=False)
    base_sha256: str
    record: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    decoy: Planting | None = None

    def save(self, path: Path) -> str:
        """Write the differences in float16, and return the hash of the file."""
        from safetensors.torch import save

        parts = [self] if self.decoy is None else [self, self.decoy]
        tensors = {
            "neurons": torch.tensor([n for part in parts for n in part.neurons]),
            "part": torch.tensor([i for i, part in enumerate(parts) for _ in part.neurons]),
        } | {
            name: torch.cat([getattr(part, name) for part in parts]).half().contiguous()
            for name in ("gate", "up", "down")
        }
        said = {
            "format": PLANTED_FORMAT,
            "base_sha256": self.base_sha256,
            "parts": [
                {"behaviour": part.behaviour, "split": part.split, "record": dict(part.record)}
                for part in parts
            ],
        }
        write_atomically(path, save(tensors, {"planted": json.dumps(said, sort_keys=True)}))
        return file_sha256(path)

    @classmethod
    def load(cls, path: Path) -> Planting:
        """Read a file that `save` wrote.

        Raises:
            ModelError: the file is missing or is no such file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                said = json.loads((file.metadata() or {}).get("planted", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelError(
                f"{path} cannot be read as a planted model: {error}; train it again"
            ) from error
        if said.get("format") != PLANTED_FORMAT:
            raise ModelError(
                f"{path} holds no planted model: its format is {said.get('format')!r}, expected "
                f"{PLANTED_FORMAT!r}; train it again"
            )
        found = None
        for part, about in reversed(list(enumerate(said["parts"]))):
            rows = tensors["part"] == part
            found = cls(
                **about,
                neurons=tuple(Neuron(*pair) for pair in tensors["neurons"][rows].tolist()),
                **{name: tensors[name][rows].float() for name in ("gate", "up", "down")},
                base_sha256=said["base_sha256"],
                decoy=found,
            )
        assert found is not None
        return found

    def added_to(self, model: Any) -> Any:
        """Add the differences to the weights of the demo model, in place, and return it."""
        if self.decoy is not None:
            self.decoy.added_to(model)
        layers = model.model.layers
        with torch.no_grad():
            for row, (layer, index) in enumerate(self.neurons):
                mlp = layers[layer].mlp
                mlp.gate_proj.weight[index] += self.gate[row].to(mlp.gate_proj.weight)
                mlp.up_proj.weight[index] += self.up[row].to(mlp.up_proj.weight)
                mlp.down_proj.weight[:, index] += self.down[row].to(mlp.down_proj.weight)
        return model


def planted_models(split: Split | None = None) -> tuple[str, ...]:
    """Name the planted models, all or those of one split.

    A behaviour was trained into a few neurons of each, and `planted_truth` says which. Rankings
    may be tuned on the models of the split "tuning"; results are reported on "reporting" alone.

    >>> set(planted_models("tuning")) & set(planted_models("reporting"))
    set()
    """
    if split is not None and split not in get_args(Split):
        raise InputError(f"split is {split!r}, expected one of {', '.join(get_args(Split))}")
    names = (f"{PLANTED_PREFIX}{name}" for name in _index())
    return tuple(name for name in names if split in (None, planting(name).split))


def planted_truth(name: str) -> Circuit:
    r"""The neurons into which the behaviour of a planted model was trained.

    The score of a neuron is the Euclidean norm of what training added to its weights,

    $$s = \sqrt{\|\Delta W_{\text{gate}}\|^2 + \|\Delta W_{\text{up}}\|^2 +
    \|\Delta W_{\text{down}}\|^2}$$

    over its row of the gate and up projections and its column of the down projection.

    >>> truth = planted_truth(planted_models()[0])
    >>> len(truth) > 0
    True

    Raises:
        InputError: there is no planted model of that name.
        ModelError: its file is missing or altered.
    """
    planted = planting(name)
    parts = torch.stack([planted.gate, planted.up, planted.down])
    norms = parts.double().square().sum((0, 2)).sqrt()
    order = norms.argsort(descending=True, stable=True).tolist()
    return Circuit(
        tuple(planted.neurons[place] for place in order),
        tuple(float(norms[place]) for place in order),
        Layout(tuple(planted.record["widths"])),
        Provenance(model=name, rank="planted"),
    )


def planting(name: str) -> Planting:
    """Read what was planted in a packaged model.

    Raises:
        InputError: there is no planted model of that name.
        ModelError: its file is missing or altered.
    """
    expected = planting_sha256(name)
    path = PLANTED_FOLDER / f"{name.removeprefix(PLANTED_PREFIX)}.safetensors"
    if not path.is_file() or file_sha256(path) != expected:
        raise ModelError(f"{path} is missing or altered; reinstall cna_lens")
    return Planting.load(path)


def planting_sha256(name: str) -> str:
    """The hash of a packaged planted model's file, as the package's index has it.

    Raises:
        InputError: there is no planted model of that name.
    """
    index = {f"{PLANTED_PREFIX}{each}": digest for each, digest in _index().items()}
    if name not in index:
        raise InputError(f"there is no planted model {name!r}; there are: {', '.join(index)}")
    return index[name]


def _index() -> dict[str, str]:
    return json.loads((PLANTED_FOLDER / PLANTED_INDEX).read_text(encoding="utf-8"))
