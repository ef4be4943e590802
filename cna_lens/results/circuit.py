"""A circuit: a set of neurons without edges, strongest first, with its provenance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jaxtyping import Int
from torch import Tensor

from cna_lens.errors import CircuitFileError, InputError
from cna_lens.results.layout import Layout
from cna_lens.results.neurons import MLP, AnyNeuron, Experts, as_neuron
from cna_lens.results.provenance import Provenance
from cna_lens.results.rendering import (
    Cell,
    Summarized,
    Summary,
    neuron_table,
    per_layer,
    summary_of,
)
from cna_lens.results.versioned import VersionedJson

if TYPE_CHECKING:
    import pandas as pd

FORMAT: Final = "cna_lens.circuit"
_FILE: Final = VersionedJson(
    FORMAT, 1, "circuit", CircuitFileError, "find the circuit again", checksum=True
)


@dataclass(frozen=True)
class Circuit(Summarized):
    """A set of neurons, strongest first, each with its signed score.

    "Circuit" is the paper's word; there are no edges. `cna_lens.find_circuit` finds circuits, and
    one can be made by hand:

    >>> circuit = Circuit((Neuron(1, 3), Neuron(0, 2)), (2.5, -1.0), Layout((4, 4)))
    >>> circuit
    Circuit(2 of 8 neurons, 2 of 2 layers, strongest L1/3 +2.5, model unknown)
    >>> circuit.by_layer()
    {0: (2,), 1: (3,)}

    A circuit may contain neurons of routed experts beside neurons that every token passes. Its size
    is then given as a share of the neurons of all experts:

    >>> layout = Layout((4, 10), experts=(Experts(0, 0), Experts(2, 3)))
    >>> circuit = Circuit((ExpertNeuron(1, 0, 2), Neuron(1, 3)), (2.5, -1.0), layout)
    >>> circuit
    Circuit(2 of 14 neurons of all experts, 1 of 2 layers, strongest L1/E0/2 +2.5, model unknown)
    >>> circuit.by_mlp()
    {MLP(layer=1, expert=None): (3,), MLP(layer=1, expert=0): (2,)}

    `print` and notebooks show it as a table.

    Attributes:
        neurons: the neurons, strongest first.
        scores: their signed scores in the same order.
        layout: the layout of the model that they belong to.
        provenance: how they were found.
    """

    neurons: tuple[AnyNeuron, ...]
    scores: tuple[float, ...]
    layout: Layout
    provenance: Provenance = field(default_factory=Provenance)

    def __post_init__(self) -> None:
        """Require distinct neurons that exist in the layout; convert NumPy integers."""
        object.__setattr__(self, "neurons", tuple(map(as_neuron, self.neurons)))
        object.__setattr__(self, "scores", tuple(map(float, self.scores)))
        if len(self.neurons) != len(self.scores):
            raise InputError(
                f"{len(self.neurons)} neurons came with {len(self.scores)} scores; "
                "give one score for each neuron"
            )
        # To know the places is to know that the model has each neuron.
        _ = self.places
        for neuron, score in zip(self.neurons, self.scores, strict=True):
            if not math.isfinite(score):
                raise InputError(f"the score of {neuron} is {score}; scores must be finite")
        if len(set(self.neurons)) != len(self.neurons):
            twice = next(n for n in self.neurons if self.neurons.count(n) > 1)
            raise InputError(f"{twice} is in the circuit twice; name each neuron once")

    def __len__(self) -> int:
        """Number of neurons."""
        return len(self.neurons)

    def __iter__(self) -> Iterator[AnyNeuron]:
        """The neurons, strongest first."""
        return iter(self.neurons)

    def __contains__(self, neuron: object) -> bool:
        """Whether a neuron belongs to the circuit."""
        return neuron in self.neurons

    def __repr__(self) -> str:
        """One useful line."""
        strongest = (
            f"strongest {self.neurons[0].label} {self.scores[0]:+.3g}, " if self.neurons else ""
        )
        counted = " of all experts" if self.layout.experts else ""
        return (
            f"Circuit({len(self)} of {self.layout.n_neurons} neurons{counted}, "
            f"{len(self.by_layer())} of {self.layout.n_layers} layers, {strongest}"
            f"model {self.provenance.model or 'unknown'})"
        )

    def _summary(self) -> Summary:
        scores = [Cell.of(score, "+.3f") for score in self.scores]
        share = len(self) / max(1, self.layout.n_neurons)
        counted = "neurons of all experts" if self.layout.experts else "neurons"
        size = f"{len(self)} of {self.layout.n_neurons} {counted} ({share:.2%})"
        return Summary(
            title="Circuit",
            facts=[
                ("size", f"{size}, {len(self.by_layer())} of {self.layout.n_layers} layers"),
                *self.provenance.facts(),
            ],
            table=neuron_table("Strongest neurons", self.neurons, {"score": scores}),
            per_layer=per_layer(self, self.layout),
        )

    @cached_property
    def places(self) -> Int[Tensor, " n"]:
        """The place of each neuron on the axis of all neurons, see `Layout.flat`."""
        return self.layout.flat_all(self.neurons)

    @property
    def sha256(self) -> str:
        """The hash of its neurons, scores, layout and provenance, which also stands in its file."""
        return _FILE.sha256(self._record())

    def by_layer(self) -> dict[int, tuple[int, ...]]:
        """The indices of the neurons in each layer that has any, strongest first within a layer.

        In a layer with experts, an index is the place among all neurons of the layer, see `Layout`;
        `by_mlp` gives the index within each expert.
        """
        layers: dict[int, list[int]] = {}
        for neuron, place in zip(self.neurons, self.places.tolist(), strict=True):
            within = place - self.layout.starts[neuron.layer]
            layers.setdefault(neuron.layer, []).append(within)
        return {layer: tuple(places) for layer, places in sorted(layers.items())}

    def by_mlp(self) -> dict[MLP, tuple[int, ...]]:
        """The indices of the neurons in each layer's MLP and in each expert that has any."""
        mlps: dict[MLP, list[int]] = {}
        for neuron in self.neurons:
            mlps.setdefault(neuron.mlp, []).append(neuron.index)
        return {mlp: tuple(mlps[mlp]) for mlp in sorted(mlps, key=self.layout.start)}

    def to_frame(self) -> pd.DataFrame:
        """A data frame with the columns layer, index and score, strongest first.

        For a model with experts it also has the column expert, with a missing value for neurons
        that belong to no routed expert.
        """
        import pandas as pd

        frame = pd.DataFrame(
            {
                "layer": [n.layer for n in self.neurons],
                "index": [n.index for n in self.neurons],
                "score": self.scores,
            }
        )
        if self.layout.experts:
            frame.insert(1, "expert", pd.array([n.mlp.expert for n in self.neurons], dtype="Int64"))
        return frame

    def save(self, path: str | Path) -> None:
        """Write the circuit as JSON: the same circuit always gives the same bytes.

        An existing file is replaced as a whole: an interruption leaves either the old or the new.
        """
        _FILE.save(path, self._record())

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a circuit that `save` wrote.

        Raises:
            CircuitFileError: the file is missing, truncated, altered, or of a later version.
        """
        return _FILE.load(path, cls._from_record)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        evidence: Sequence[Summarized] = (),
        base_model: str | None = None,
        license: str | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Publish the circuit with its evidence and a card on the Hugging Face Hub.

        The repository gets three files and no weights: circuit.json, as `save` writes it,
        evidence.json, and README.md, the card. The card has the code that reads the circuit at the
        commit that was just made, the provenance, and a table of each result in `evidence`. A
        second push replaces the files.

        Args:
            repo_id: "owner/name"; a repository is made unless it exists.
            evidence: what tests the circuit: results such as `null_distribution`, `stability`, and
                the effect beside its control, `compare` with `matched_random`.
            base_model: the name on the Hub of the model that the circuit belongs to, as a link on
                the card.
            license: of the circuit, by its name on the Hub, such as "mit".
            private: whether a new repository is private; by default as its owner has set.
            token: may write to the Hub; by default that of `hf auth login`.

        Returns:
            The hash of the commit that holds the circuit, for `from_hub(revision=...)`.

        Raises:
            InputError: the name is not one of a repository, or something in `evidence` is no
                result.
            HubError: the Hub refuses, or cannot be reached.
        """
        # The Hub's client takes longer to import than a circuit to read.
        from cna_lens.results import card, hub

        files = {
            card.CIRCUIT_FILE: _FILE.encode(self._record()),
            card.EVIDENCE_FILE: card.evidence_text(evidence),
        }
        hub.create(repo_id, private=private, token=token)
        revision = hub.commit(repo_id, files, f"Circuit of {len(self)} neurons", token=token)
        page = card.circuit_card(
            repo_id,
            revision,
            self._summary(),
            self.provenance,
            [summary_of(each) for each in evidence],
            base_model=base_model,
            license=license,
        )
        hub.commit(repo_id, {"README.md": page}, f"Card of {revision[:8]}", token=token)
        return revision

    @classmethod
    def from_hub(
        cls, repo_id: str, *, revision: str | None = None, token: str | None = None
    ) -> Circuit:
        """Read a circuit that `push_to_hub` published.

        `provenance.hub` says at which commit it was read. Pass that commit as `revision` to read
        the same circuit again, whatever its owner pushes later.

        Args:
            repo_id: "owner/name".
            revision: the hash of a commit, a tag or a branch; by default the newest on main.
            token: may read a private repository; by default that of `hf auth login`.

        Raises:
            InputError: the name is not one of a repository.
            HubError: there is no such repository, revision or circuit, or the Hub cannot be
                reached and the cache does not hold it.
            CircuitFileError: the file is truncated, altered, or of a later version.
        """
        from cna_lens.results import card, hub

        content, commit = hub.read(repo_id, card.CIRCUIT_FILE, revision=revision, token=token)
        name = f"{repo_id}@{commit}"
        return _FILE.decode(content, name, cls._from_record).with_provenance(hub=name)

    def _record(self) -> dict[str, Any]:
        experts = {"experts": self.layout.experts} if self.layout.experts else {}
        return {
            "widths": self.layout.widths,
            "neurons": [[*n, s] for n, s in zip(self.neurons, self.scores, strict=True)],
            "provenance": self.provenance.record(),
            **experts,
        }

    @classmethod
    def _from_record(cls, record: Mapping[str, Any]) -> Circuit:
        experts = tuple(Experts(count, width) for count, width in record.get("experts", ()))
        return cls(
            neurons=tuple(as_neuron(tuple(place)) for *place, _ in record["neurons"]),
            scores=tuple(score for *_, score in record["neurons"]),
            layout=Layout(tuple(record["widths"]), experts),
            provenance=Provenance.from_record(record["provenance"]),
        )

    def with_provenance(self, **changes: Any) -> Circuit:
        """A circuit of the same neurons with some entries of the provenance replaced."""
        return replace(self, provenance=replace(self.provenance, **changes))
