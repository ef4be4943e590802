"""How well a ranking finds neurons that are known to carry a behaviour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cna_lens.errors import InputError
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Sign
from cna_lens.results.scores import NeuronScores

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    r"""How far planted neurons stand above the others in a ranking.

    Neurons with equal scores count as ordered at random: each value is then the expectation, or
    for the average precision the value with all of them taken at once.

    Attributes:
        auroc: the probability that a planted neuron has a higher score than another neuron,
            $P(s_p > s_q) + \frac{1}{2} P(s_p = s_q)$; chance gives .5.
        average_precision: $\sum_i (R_i - R_{i-1}) P_i$ over the distinct scores from high to low,
            where R and P are recall and precision of the neurons with at least that score; chance
            gives about the share of planted neurons.
        precision: the share of planted neurons among the k with the highest scores, where k is
            their true number.
    """

    auroc: float
    average_precision: float
    precision: float


@dataclass(frozen=True)
class Recovery:
    """How well a ranking finds planted neurons.

    Attributes:
        ranking: its name.
        k: the number of planted neurons.
        n_neurons: the number of neurons that were ranked.
        overall: among all neurons.
        within_layers: the same within each layer that has planted neurons, where knowing the depth
            does not help: the mean over the planted neurons of their layer's value.
        by_chance: the share of planted neurons, which is the precision of a random ranking.
    """

    ranking: str
    k: int
    n_neurons: int
    overall: Found
    within_layers: Found
    by_chance: float

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Recovery:
        """Restore the plain data that `dataclasses.asdict` gives."""
        given: dict[str, Any] = dict(record)
        for name in ("overall", "within_layers"):
            given[name] = Found(**given[name])
        return cls(**given)


def recovery(scores: NeuronScores, truth: Circuit, *, sign: Sign = "abs") -> Recovery:
    """Compare a ranking with the neurons that are known to carry the behaviour.

    >>> layout = Layout((4, 4))
    >>> truth = Circuit((Neuron(0, 1), Neuron(1, 2)), (1.0, 1.0), layout)
    >>> values = torch.tensor([0.1, 0.9, 0.2, 0.0, 0.5, 0.3, 0.8, 0.4], dtype=torch.float64)
    >>> recovery(NeuronScores(values, layout, "mine"), truth).overall
    Found(auroc=1.0, average_precision=1.0, precision=1.0)

    Args:
        scores: of every neuron, see `score_neurons`.
        truth: the neurons that carry the behaviour, such as `planted_truth(name)`.
        sign: "abs" ranks by absolute values, "positive" by values, "negative" by negated values.
            Neurons that the ranking must not choose come last.

    Raises:
        InputError: the two belong to different models, a score is not a number, or the
            truth holds no neuron or all of them.
    """
    strength, planted = _strength(scores, truth, sign)
    layers = [(strength[part], planted[part]) for part in _layers(scores) if planted[part].any()]
    return Recovery(
        ranking=scores.method,
        k=len(truth),
        n_neurons=len(planted),
        overall=_found(strength, planted),
        within_layers=_mean([(_found(s, p), int(p.sum())) for s, p in layers if not p.all()]),
        by_chance=float(planted.mean()),
    )


def recall(scores: NeuronScores, truth: Circuit, *, sign: Sign = "abs") -> Floats:
    """The share of the known neurons that are among the first k, for each k from 1 on.

    Where neurons have equal scores, it is the expectation over their orders.

    >>> layout = Layout((4,))
    >>> truth = Circuit((Neuron(0, 1), Neuron(0, 2)), (1.0, 1.0), layout)
    >>> values = torch.tensor([0.3, 0.9, 0.1, 0.1], dtype=torch.float64)
    >>> recall(NeuronScores(values, layout, "mine"), truth).tolist()
    [0.5, 0.5, 0.75, 1.0]

    Args:
        scores: of every neuron.
        truth: the neurons that carry the behaviour.
        sign: as for `recovery`.

    Raises:
        InputError: as for `recovery`.
    """
    strength, planted = _strength(scores, truth, sign)
    up_to, recovered = _up_to(strength, planted)
    k = np.arange(1, len(planted) + 1)
    return np.interp(k, np.append(0, up_to), np.append(0, recovered)) / len(truth)


def _strength(scores: NeuronScores, truth: Circuit, sign: Sign) -> tuple[Floats, Bools]:
    """What neurons are ordered by, and which of them are in the truth."""
    if sign not in get_args(Sign):
        raise InputError(f"sign is {sign!r}, expected one of {', '.join(get_args(Sign))}")
    if scores.layout != truth.layout:
        raise InputError(
            f"the ranking has {scores.layout.n_neurons} neurons in {scores.layout.n_layers} "
            f"layers, the truth is of a model with {truth.layout.n_neurons} in "
            f"{truth.layout.n_layers}; rank the neurons of the planted model"
        )
    ranked, known = scores.provenance.model, truth.provenance.model
    if ranked and known and ranked != known:
        raise InputError(
            f"the scores are of {ranked}, the truth is of {known}; rank the neurons of {known}"
        )
    planted = np.zeros(scores.layout.n_neurons, dtype=bool)
    planted[truth.places.numpy()] = True
    if planted.all() or not planted.any():
        raise InputError(
            f"the truth holds {len(truth)} of {len(planted)} neurons; it must hold some and not all"
        )
    values = scores.values.cpu().double().numpy()
    if np.isnan(values).any():
        raise InputError(
            f"{int(np.isnan(values).sum())} scores of {scores.method} are not numbers; give each "
            "neuron a score"
        )
    strength = {"abs": np.abs, "positive": np.positive, "negative": np.negative}[sign](values)
    if scores.eligible is not None:
        strength = np.where(scores.eligible.cpu().numpy(), strength, -np.inf)
    return strength, planted


def _layers(scores: NeuronScores) -> Iterator[slice]:
    starts = scores.layout.starts
    yield from map(slice, starts[:-1], starts[1:])


def _found(strength: Floats, planted: Bools) -> Found:
    k, n = int(planted.sum()), len(planted)
    ranks = rankdata(strength)
    auroc = (ranks[planted].sum() - k * (k + 1) / 2) / (k * (n - k))
    up_to, recovered = _up_to(strength, planted)
    hits = np.diff(recovered, prepend=0)
    average_precision = float((hits / k * recovered / up_to).sum())
    # Of the group in which the k-th neuron is, the expected number of planted ones is taken.
    expected = np.interp(k, np.append(0, up_to), np.append(0, recovered))
    return Found(float(auroc), average_precision, float(expected / k))


def _up_to(strength: Floats, planted: Bools) -> tuple[Floats, Floats]:
    """Count the neurons, and the planted ones, with at least each strength from high to low."""
    _, group = np.unique(-strength, return_inverse=True)
    return np.bincount(group).cumsum().astype(float), np.bincount(group, weights=planted).cumsum()


def _mean(found: list[tuple[Found, int]]) -> Found:
    if not found:
        raise InputError("in each layer all neurons are planted or none; nothing can be ranked")
    weights = [k for _, k in found]
    return Found(
        *(
            float(np.average([getattr(each, name) for each, _ in found], weights=weights))
            for name in ("auroc", "average_precision", "precision")
        )
    )
