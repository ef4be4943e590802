"""Watching a circuit during normal use, with an alarm when its activations change."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cna_lens.audit.watching.exchangeability import JumpingBets, ranks
from cna_lens.audit.watching.histograms import Histograms, binned
from cna_lens.errors import CnaLensWarning, InputError
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.matching import check_circuit
from cna_lens.models.inside.sites import mlp_hook_names
from cna_lens.models.running.positions import PositionTracker
from cna_lens.results.circuit import Circuit
from cna_lens.results.neurons import Neuron
from cna_lens.results.statistics import check_probability
from cna_lens.steering.scaling import Hook, hooked

N_NAMED = 5
"""The number of neurons that an alarm names."""


@dataclass(frozen=True)
class Alarm:
    """An alarm: the activations of the circuit have changed.

    Attributes:
        after: the number of requests that were watched before the alarm.
        evidence: the betting capital as a multiple of its start, see `Watch.evidence`.
        false_alarm_rate: the probability of any alarm, ever, if nothing changes.
        neurons: the neurons with the strongest evidence, the strongest first.
    """

    after: int
    evidence: float
    false_alarm_rate: float
    neurons: tuple[Neuron, ...]

    def __str__(self) -> str:
        """One line of a log."""
        named = ", ".join(neuron.label for neuron in self.neurons)
        return (
            f"after {self.after} requests the circuit is not what it was: odds "
            f"{self.evidence:.3g} to 1 at a false-alarm rate of {self.false_alarm_rate:g}, most "
            f"of all in {named}"
        )


class Watch:
    """The counts and the evidence so far; their size does not grow with requests.

    Attributes:
        alarm: the first alarm; None as long as there is none.
        model: the name of the model.
        rate: the probability of any alarm if nothing changes.
        n_reference: number of requests of the reference.
    """

    def __init__(
        self,
        reference: Histograms,
        false_alarm_rate: float,
        on_alarm: Callable[[Alarm], None],
        seed: int,
    ) -> None:
        """Start from the counts of a reference."""
        self.alarm: Alarm | None = None
        self.model = reference.model
        self.rate = false_alarm_rate
        self.n_reference = reference.n_requests
        self._neurons = reference.neurons
        self._counts = reference.counts.clone()
        self._watched = 0
        self._tokens = 0
        self._bets = JumpingBets(len(reference.neurons))
        self._on_alarm = on_alarm
        self._ties = torch.Generator().manual_seed(seed)

    @property
    def n_requests(self) -> int:
        """Number of requests that were watched, without those of the reference."""
        return self._watched

    @property
    def n_tokens(self) -> int:
        """Number of tokens that went through the model, generated ones included."""
        return self._tokens

    @property
    def evidence(self) -> float:
        """The largest capital as a multiple of the common start; an alarm comes at 1 / the rate."""
        return _exp(self._bets.together)

    @property
    def histograms(self) -> Histograms:
        """All counts, including those of the reference: the reference of the next watch."""
        return Histograms(self.model, self._neurons, self._counts.clone())

    def count(self, activations: Float[Tensor, "request neuron"]) -> None:
        """Count requests in their order."""
        for bins in binned(activations):
            self._count(bins)

    def count_tokens(self, n: int) -> None:
        """Count tokens of a forward pass."""
        self._tokens += n

    def _count(self, bins: Int64[Tensor, " neuron"]) -> None:
        self._counts.scatter_add_(1, bins[:, None], torch.ones_like(bins)[:, None])
        ties = torch.rand(len(bins), generator=self._ties, dtype=torch.float64)
        self._bets.bet(ranks(self._counts, bins, ties))
        self._watched += 1
        if self.alarm is None and self._bets.together >= -math.log(self.rate):
            order = self._bets.of_neurons.argsort(descending=True, stable=True)[:N_NAMED]
            named = tuple(self._neurons[place] for place in order.tolist())
            self.alarm = Alarm(self._watched, self.evidence, self.rate, named)
            self._on_alarm(self.alarm)

    def __repr__(self) -> str:
        """One useful line."""
        said = "no alarm" if self.alarm is None else f"alarm after {self.alarm.after}"
        return f"Watch({self._watched} requests, evidence {self.evidence:.3g}, {said})"


@contextmanager
def watch(
    model: HookedModel,
    circuit: Circuit,
    reference: Histograms | None = None,
    *,
    false_alarm_rate: float = 0.001,
    on_alarm: Callable[[Alarm], None] | None = None,
    seed: int = 0,
    allow_other_model: bool = False,
) -> Generator[Watch]:
    r"""Count a circuit's activations during normal use, and raise an alarm when they change.

    At the last token of each request, where the answer is decided, each neuron's activation is
    counted in a coarse histogram. A sequential test asks whether the requests are still
    exchangeable with earlier ones (see `exchangeability`). If they are, the probability of any
    alarm, ever, is at most `false_alarm_rate`, for any distribution of the activations and any
    dependence between neurons. The requests must also come as before: new users, or many equal
    requests in a row, raise the alarm as a changed model does.

    A first period gives the reference for later ones:

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> with watch(tiny_model, circuit) as first:
    ...     logits = tiny_model(torch.tensor([[5, 6, 7], [8, 9, 3]]))
    >>> first.histograms
    Histograms(1 neuron, 2 requests, model tiny-llama)
    >>> with watch(tiny_model, circuit, first.histograms) as later:
    ...     logits = tiny_model(torch.tensor([[6, 7, 8]]))
    >>> later.n_requests, later.alarm
    (1, None)

    Only the counts are kept, in memory that does not grow. The watch sees changes by hooks that
    were entered before it, and by weights that come before the neurons. It does not see hooks on
    the same neurons that are entered later, nor changes of these neurons' own output weights:
    `hooks` and fingerprints find those.

    Args:
        model: a TransformerBridge or HookedTransformer.
        circuit: the neurons to watch, none of them of routed experts.
        reference: counts of earlier requests, from a watch of the same circuit; without them, each
            request is compared with the earlier ones of this watch.
        false_alarm_rate: the probability of any alarm if nothing changes.
        on_alarm: called once with the alarm, during a forward pass; without it, a warning is given.
        seed: seed of the random numbers that break ties.
        allow_other_model: accept a circuit that was found on a model of another name, such as the
            same weights from a folder.

    Raises:
        InputError: the rate is outside (0, 1), the circuit is empty or has neurons of experts, or
            the reference is of other neurons.
        CircuitMismatchError: the circuit was found on another model.
        ModelError: a forward pass does not say where its prompts end.

    Warns:
        CnaLensWarning: the alarm, if `on_alarm` is not given.
    """
    check_probability("false_alarm_rate", false_alarm_rate)
    check_circuit(model, circuit, allow_other_model=allow_other_model)
    neurons = _dense(circuit)
    if reference is None:
        reference = Histograms.empty(model_name(model), neurons)
    if reference.neurons != neurons:
        raise InputError(
            "the reference has other neurons than the circuit, or another order of them; give the "
            "histograms of a watch of this circuit"
        )
    watched = Watch(reference, false_alarm_rate, on_alarm or _warn, seed)
    tracker = PositionTracker("last_prompt", model)
    with hooked(model, _readers(model, neurons, watched, tracker), tracker=tracker):
        yield watched


def _dense(circuit: Circuit) -> tuple[Neuron, ...]:
    neurons = tuple(neuron for neuron in circuit if isinstance(neuron, Neuron))
    if len(neurons) < len(circuit):
        raise InputError(
            "neurons of routed experts are silent on most requests and cannot be watched; leave "
            "them out of the circuit"
        )
    if not neurons:
        raise InputError("the circuit has no neurons to watch; give at least one")
    return neurons


def _readers(
    model: HookedModel, neurons: tuple[Neuron, ...], watched: Watch, tracker: PositionTracker
) -> list[tuple[str, Hook]]:
    """A hook for each layer; the last one counts the activations that all hooks read in a pass."""
    names = mlp_hook_names(model)
    columns: dict[int, list[int]] = {}
    for column, neuron in enumerate(neurons):
        columns.setdefault(neuron.layer, []).append(column)
    layers = sorted(columns)
    read: dict[int, Tensor] = {}

    def keep(activation: Tensor, hook: Any, *, layer: int) -> None:  # noqa: ARG001
        current = tracker.pass_of(activation)
        decisive = current.steered.to(activation.device)
        if layer == layers[0]:
            read.clear()
            watched.count_tokens(int(current.mask[:, -decisive.shape[1] :].sum()))
        if not bool(decisive.any()):
            return
        indices = [neurons[column].index for column in columns[layer]]
        read[layer] = activation[decisive][:, indices].detach().float().cpu()
        if layer == layers[-1]:
            activations = torch.empty((len(read[layer]), len(neurons)))
            for each in layers:
                activations[:, columns[each]] = read[each]
            watched.count(activations)

    return [
        (cast("str", names[layer]), cast("Hook", partial(keep, layer=layer))) for layer in layers
    ]


def _warn(alarm: Alarm) -> None:
    warnings.warn(str(alarm), CnaLensWarning, stacklevel=2)


def _exp(logarithm: float) -> float:
    return math.exp(logarithm) if logarithm < 700 else math.inf
