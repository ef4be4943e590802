"""The resources that a model's worker takes from a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cna_lens.errors import InputError
from cna_lens.models.estimate import Requirements

PROCESS_GIB = 0.75
"""Memory of a worker beside its model: Python, PyTorch and Transformers."""

_GIB = 2**30

Amount = int | float
Estimate = Callable[[Literal["cuda", "cpu"]], Requirements]


@dataclass(frozen=True)
class Needs:
    """The resources of a cluster that the worker of a model takes.

    A number that is None is taken from the estimate.

    >>> Needs(gpus=2)
    Needs(gpus=2, memory_gib=None, estimate=None)

    Args:
        gpus: number of GPUs to spread the model over; 0 for the CPU. A cluster without GPUs runs a
            model that needs one GPU on CPUs.
        memory_gib: memory of the model on the CPU, in GiB.
        estimate: gives the model's requirements on a kind of device, see `requirements`. It is
            called only where a number is None.
    """

    gpus: int | None = None
    memory_gib: float | None = None
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Machine:
    """The resources of one machine of a cluster.

    Attributes:
        cpus: its processors.
        gpus: its GPUs.
        memory: bytes that workers may take.
        gpu_bytes: memory of its smallest GPU; None where it is unknown.
    """

    cpus: Amount = 0
    gpus: Amount = 0
    memory: Amount = 0
    gpu_bytes: int | None = None

    def has(self, asked: Mapping[str, Amount]) -> bool:
        """Whether the empty machine has as much, in Ray's words."""
        mine = {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}
        return all(mine[name] >= amount for name, amount in asked.items())

    def __str__(self) -> str:
        """Its resources in words."""
        amounts = {"num_cpus": self.cpus, "num_gpus": self.gpus, "memory": self.memory}
        of_each = "" if self.gpu_bytes is None else f" of {self.gpu_bytes / _GIB:.1f} GiB"
        return _amounts({name: n for name, n in amounts.items() if n}, of_each)


def resources(
    model: str, needs: Needs, machines: Sequence[Machine], n_models: int
) -> dict[str, Amount]:
    """Return the resources to request from Ray.

    On CPUs the models share the processors of the cluster evenly.

    >>> resources("demo", Needs(), [Machine(cpus=16)], n_models=2)
    {'num_cpus': 8}

    Args:
        model: its name, for the error.
        needs: its needs.
        machines: the machines of the cluster.
        n_models: number of models that are run.

    Raises:
        InputError: no machine has as much. Ray would wait for one forever.
    """
    gpus = needs.gpus
    if gpus is None:
        gpus = _cards(model, needs.estimate, machines) if any(m.gpus for m in machines) else 0
    asked: dict[str, Amount]
    if gpus > 1 or (gpus and any(machine.gpus for machine in machines)):
        asked = {"num_cpus": 1, "num_gpus": gpus}
    else:
        processors = [machine.cpus for machine in machines]
        asked = {"num_cpus": max(1, min(max(processors), sum(processors) // n_models))}
        memory = _memory(needs)
        if memory is not None:
            asked["memory"] = memory
            # A machine with less memory may have more processors, and the other way round.
            able = [machine.cpus for machine in machines if machine.memory >= memory]
            share = asked["num_cpus"]
            asked["num_cpus"] = max(1, min(share, max(able, default=share)))
    if not any(machine.has(asked) for machine in machines):
        raise _too_large(model, _amounts(asked), machines)
    return asked


def _memory(needs: Needs) -> int | None:
    if needs.memory_gib is not None:
        return int(needs.memory_gib * _GIB)
    if needs.estimate is None:
        return None
    found = needs.estimate("cpu")
    return max(found.discovery, found.generation) + int(PROCESS_GIB * _GIB)


def _cards(model: str, estimate: Estimate | None, machines: Sequence[Machine]) -> int:
    """Return the smallest number of GPUs that holds the model wherever Ray may place it.

    One where the memory of the GPUs is unknown.

    Raises:
        InputError: there is no such number.
    """
    known = [(each.gpus, each.gpu_bytes) for each in machines if each.gpus and each.gpu_bytes]
    if estimate is None or len(known) < sum(each.gpus > 0 for each in machines):
        return 1
    needs = estimate("cuda")
    cards = {size: needs.cards(size) for _, size in known}
    for count in range(1, int(max(gpus for gpus, _ in known)) + 1):
        places = [cards[size] for gpus, size in known if gpus >= count]
        if all(needed is not None and needed <= count for needed in places):
            return count
    of_each = (
        f"{'more than any number of' if needed is None else needed} GPUs of {size / _GIB:.1f} GiB"
        for size, needed in sorted(cards.items())
    )
    raise _too_large(model, " or ".join(of_each), machines)


def _too_large(model: str, asked: str, machines: Sequence[Machine]) -> InputError:
    return InputError(
        f"{model} needs {asked}, and no machine of the Ray cluster has as much; they have "
        f"{'; '.join(map(str, machines))}. Add a machine, or name the needs yourself: a study has "
        "devices and memory_gib in its settings"
    )


def _amounts(of: Mapping[str, Amount], of_each_gpu: str = "") -> str:
    words = {"num_cpus": "CPUs", "num_gpus": f"GPUs{of_each_gpu}"}
    parts = [f"{of[name]:g} {word}" for name, word in words.items() if name in of]
    return ", ".join([*parts, f"{of['memory'] / _GIB:.1f} GiB"] if "memory" in of else parts)
