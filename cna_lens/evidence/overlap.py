"""Is it the same circuit? Overlaps of circuits, beside those of random circuits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from cna_lens.errors import InputError
from cna_lens.results.circuit import Circuit
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Cell, Table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Overlap:
    """The neurons that two circuits share, and how many random circuits would share.

    Attributes:
        first: the name of one circuit.
        second: the name of the other.
        sizes: their numbers of neurons.
        shared: the number of neurons in both.
        jaccard: the shared neurons over the neurons in either.
        random: the expected Jaccard index of random circuits of these sizes.
        random_by_layer: the same for random circuits with as many neurons in each layer.
        p_value: the probability that circuits random by layer share at least as many.
    """

    first: str
    second: str
    sizes: tuple[int, int]
    shared: int
    jaccard: float
    random: float
    random_by_layer: float
    p_value: float


@dataclass(frozen=True, repr=False)
class Transfer(Evidence):
    """The overlap of each pair of circuits.

    Attributes:
        names: of the circuits.
        overlaps: one for each pair.
    """

    names: tuple[str, ...]
    overlaps: tuple[Overlap, ...]

    def matrix(self) -> pd.DataFrame:
        """The Jaccard index of each pair of circuits, as a square data frame."""
        import pandas as pd

        square = pd.DataFrame(1.0, index=list(self.names), columns=list(self.names))
        for overlap in self.overlaps:
            square.loc[overlap.first, overlap.second] = overlap.jaccard
            square.loc[overlap.second, overlap.first] = overlap.jaccard
        return square

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each pair of circuits."""
        import pandas as pd

        return pd.DataFrame([asdict(overlap) for overlap in self.overlaps])

    def _headline(self) -> str:
        strongest = max(self.overlaps, key=lambda overlap: overlap.jaccard)
        return (
            f"{len(self.names)} circuits, Jaccard up to {strongest.jaccard:.3g} "
            f"({strongest.first}, {strongest.second})"
        )

    def _facts(self) -> list[tuple[str, str]]:
        return [("circuits", ", ".join(self.names))]

    def _table(self) -> Table:
        return Table(
            "Overlaps, beside those of random circuits",
            ("circuit", "circuit", "shared", "Jaccard", "random", "random by layer", "p"),
            tuple(
                (
                    *(Cell.of(each) for each in (overlap.first, overlap.second, overlap.shared)),
                    Cell.of(overlap.jaccard, ".3f"),
                    Cell.of(overlap.random, ".2g"),
                    Cell.of(overlap.random_by_layer, ".2g"),
                    Cell.of(overlap.p_value, ".2g"),
                )
                for overlap in self.overlaps
            ),
        )

    def record(self) -> dict[str, Any]:
        """The result as plain data."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Transfer:
        """Restore the result from what `record` made or `save` wrote."""
        overlaps = [
            Overlap(**each | {"sizes": tuple(each["sizes"])}) for each in record["overlaps"]
        ]
        return cls(tuple(record["names"]), tuple(overlaps))


def transfer(circuits: Mapping[str, Circuit]) -> Transfer:
    r"""Compare each pair of circuits, such as those from other prompts, languages or seeds.

    Random circuits of a and b among N neurons share a hypergeometric number of neurons S, so the
    expected Jaccard index is exactly

    $$E[J] = \sum_s P(S = s) \frac{s}{a + b - s}.$$

    Circuits that crowd into the same layers share more than that by chance. `random_by_layer`
    sums the shared neurons over layers, each hypergeometric, and is the value to beat. Cost: no
    forward pass.

    >>> one = Circuit((Neuron(0, 1), Neuron(1, 2)), (2.0, 1.0), Layout((4, 4)))
    >>> other = Circuit((Neuron(0, 1), Neuron(1, 3)), (2.0, 1.0), Layout((4, 4)))
    >>> (overlap,) = transfer({"seed 0": one, "seed 1": other}).overlaps
    >>> overlap.shared, round(overlap.jaccard, 3), overlap.p_value
    (1, 0.333, 0.4375)

    Args:
        circuits: at least two, by name.

    Raises:
        InputError: fewer than two circuits, an empty one, or one of a model of another shape.
    """
    if len(circuits) < 2:
        raise InputError(f"transfer compares circuits, there is {len(circuits)}; give at least 2")
    return Transfer(
        names=tuple(circuits),
        overlaps=tuple(
            _overlap(first, second, circuits[first], circuits[second])
            for first, second in combinations(circuits, 2)
        ),
    )


def jaccard(first: Circuit, second: Circuit) -> float:
    r"""The neurons in both circuits over the neurons in either, $|A \cap B| / |A \cup B|$.

    Two circuits of 200 neurons that share 53:

    >>> layout = Layout((400,))
    >>> one = Circuit(tuple(Neuron(0, i) for i in range(200)), (1.0,) * 200, layout)
    >>> other = Circuit(tuple(Neuron(0, i) for i in range(147, 347)), (1.0,) * 200, layout)
    >>> round(jaccard(one, other), 6)
    0.152738

    Raises:
        InputError: an empty circuit, or models of different shapes.
    """
    _check_comparable(first, second)
    shared = len(set(first) & set(second))
    return shared / (len(first) + len(second) - shared)


def expected_jaccard(n_neurons: int, first: int, second: int) -> float:
    """The expected Jaccard index of two random circuits of given sizes.

    >>> round(expected_jaccard(46_080, 46, 46), 6)
    0.000505

    Raises:
        InputError: a size below 1 or above the number of neurons.
    """
    for size in (first, second):
        if not 1 <= size <= n_neurons:
            raise InputError(f"a circuit has {size} neurons, expected 1 to {n_neurons}")
    return _expected(_shared_by_chance(n_neurons, first, second), first + second)


def _overlap(name: str, other_name: str, circuit: Circuit, other: Circuit) -> Overlap:
    _check_comparable(circuit, other)
    shared = len(set(circuit) & set(other))
    by_layer = _shared_by_chance_in_layers(circuit, other)
    sizes = (len(circuit), len(other))
    return Overlap(
        first=name,
        second=other_name,
        sizes=sizes,
        shared=shared,
        jaccard=jaccard(circuit, other),
        random=expected_jaccard(circuit.layout.n_neurons, *sizes),
        random_by_layer=_expected(by_layer, sum(sizes)),
        p_value=min(1.0, float(by_layer[shared:].sum())),
    )


def _shared_by_chance(n_neurons: int, first: int, second: int) -> NDArray[np.float64]:
    return hypergeom.pmf(np.arange(min(first, second) + 1), n_neurons, first, second)


def _shared_by_chance_in_layers(circuit: Circuit, other: Circuit) -> NDArray[np.float64]:
    one, two = circuit.by_layer(), other.by_layer()
    total = np.ones(1)
    for layer in one.keys() & two.keys():
        in_layer = _shared_by_chance(circuit.layout.widths[layer], len(one[layer]), len(two[layer]))
        total = np.convolve(total, in_layer)
    return total


def _expected(shared: NDArray[np.float64], both_sizes: int) -> float:
    counts = np.arange(len(shared))
    return float((shared * counts / (both_sizes - counts)).sum())


def _check_comparable(first: Circuit, second: Circuit) -> None:
    if first.layout != second.layout:
        raise InputError(
            f"circuits of a model with {first.layout.n_neurons} neurons in "
            f"{first.layout.n_layers} layers and of one with {second.layout.n_neurons} in "
            f"{second.layout.n_layers} share no neurons; compare circuits of one shape"
        )
    if not len(first) or not len(second):
        raise InputError("a circuit is empty; the overlap of nothing is not defined")
