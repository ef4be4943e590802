"""Measure cells on Ray: each model in a worker of its own, and this process keeps what they find.

Nothing here is needed, or imported, where cells are measured in this process.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from cna_lens import CnaLensError, InputError
from cna_lens.results import library_versions
from experiments.study.cells import Cell
from experiments.study.running import Ledger, Load, Loaded, by_model, measured

LOCAL = "local"
RESTARTS = 3
"""How often a model's worker that died is started anew, in one run."""

EXPERIMENTS = Path(__file__).parents[1]
OBJECT_STORE_BYTES = 2**27
"""Of a local cluster: records are small, and models never stand there."""


@dataclass(frozen=True)
class Needs:
    """What the worker of a model takes from a cluster.

    Attributes:
        gpus: to spread the model over; a cluster without GPUs runs on CPUs what needs only one.
        memory_gib: of the model, None where nobody said.
    """

    gpus: int
    memory_gib: float | None = None


@dataclass(frozen=True)
class OnRay:
    """Measures cells on a Ray cluster, as many models at a time as it has room for.

    A worker loads its model once and measures that model's cells one after the other; a model's
    GPUs are free for the next model when its cells are finished. A worker that dies is started anew
    and measures the cell again that it was at.

    Attributes:
        address: of a cluster; "local" for one that begins and ends with the run.
        needs: what the worker for a cell takes.
    """

    address: str
    needs: Callable[[Cell], Needs]

    def __call__(self, cells: Sequence[Cell], load: Load, ledger: Ledger) -> None:
        """Measure all cells, and keep each as soon as it is finished.

        Raises:
            CnaLensError: Ray is not installed, there is no such cluster, or a worker died again
                and again.
            InputError: no machine of the cluster has what a model needs, or a worker has other
                versions of the libraries.
        """
        models = by_model(cells)
        if not models:
            return
        with _cluster(self.address) as ray:
            machines = [each["Resources"] for each in ray.nodes() if each["Alive"]]
            options = [
                resources(mine[0].model, self.needs(mine[0]), machines, len(models))
                for mine in models
            ]
            asyncio.run(_measure_all(models, options, load, ledger))


def resources(
    model: str, needs: Needs, machines: Sequence[Mapping[str, float]], n_models: int
) -> dict[str, float]:
    """What Ray is asked for.

    On CPUs the models share the processors of the cluster evenly.

    Args:
        model: its name, for the error.
        needs: what it takes.
        machines: what each machine of the cluster has, in Ray's words and units.
        n_models: how many models are measured.

    Raises:
        InputError: no machine has as much. Ray would wait for one, for ever.
    """
    asked: dict[str, float]
    if needs.gpus > 1 or (needs.gpus and any(machine.get("GPU") for machine in machines)):
        asked = {"CPU": 1, "GPU": needs.gpus}
    else:
        processors = [machine.get("CPU", 0) for machine in machines]
        asked = {"CPU": max(1, min(max(processors), sum(processors) // n_models))}
        if needs.memory_gib is not None:
            asked["memory"] = int(needs.memory_gib * 2**30)
    if not any(all(each.get(name, 0) >= n for name, n in asked.items()) for each in machines):
        raise InputError(
            f"{model} needs {_amounts(asked)}, and no machine of the Ray cluster has as much; they "
            f"have {'; '.join(_amounts(each) for each in machines)}. Change devices or memory_gib "
            "in the settings, or add a machine"
        )
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {names[name]: amount for name, amount in asked.items()}


def _amounts(of: Mapping[str, float]) -> str:
    parts = [f"{of[name]:g} {name}s" for name in ("CPU", "GPU") if name in of]
    return ", ".join([*parts, f"{of['memory'] / 2**30:.1f} GiB"] if "memory" in of else parts)


class Worker:
    """Measures cells of one model in a process of its own."""

    def __init__(self, load: Load, provenance: Mapping[str, Any]) -> None:
        """Load nothing yet, so that what goes wrong in it is told as any error of a cell."""
        self._load = load
        self._provenance = provenance
        self._loaded: Loaded | None = None

    def begin(self, cell: Cell) -> tuple[str, dict[str, str]]:
        """The hash of the model's weights, and the versions of the libraries here."""
        return self._on(cell).weights_sha256, dict(library_versions())

    def measure(self, cell: Cell) -> tuple[dict[str, Any], str]:
        """The record of a cell, and what it shows on the screen."""
        loaded = self._on(cell)
        with redirect_stdout(io.StringIO()) as shown:
            record = measured(cell, loaded, self._provenance)
        return record, shown.getvalue()

    def _on(self, cell: Cell) -> Loaded:
        # A worker that is started anew was not asked to begin.
        if self._loaded is None:
            self._loaded = self._load(cell)
        return self._loaded


async def _measure_all(
    models: Sequence[Sequence[Cell]],
    options: Sequence[Mapping[str, float]],
    load: Load,
    ledger: Ledger,
) -> None:
    # The first error ends the run, as it does in one process.
    await asyncio.gather(
        *(
            _measure_model(mine, asked, load, ledger)
            for mine, asked in zip(models, options, strict=True)
        )
    )


async def _measure_model(
    cells: Sequence[Cell], asked: Mapping[str, float], load: Load, ledger: Ledger
) -> None:
    import ray
    from ray.exceptions import RayError, RayTaskError

    again = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    worker: Any = ray.remote(**asked, **again)(Worker).remote(load, ledger.provenance)
    cell = cells[0]
    try:
        ledger.show(f"loading {cell.model}")
        weights_sha256, versions = await worker.begin.remote(cell)
        _check_versions(cell, versions, ledger.provenance["versions"])
        ledger.check_weights(cell, weights_sha256)
        for cell in cells:
            ledger.show(str(cell))
            record, shown = await worker.measure.remote(cell)
            if shown:
                tqdm.write(shown, end="")
            ledger.keep(cell, record)
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise CnaLensError(
            f"Ray gave up on {cell}, after up to {RESTARTS} new workers for that model; finished "
            f"cells are kept, and the same command goes on from them. Ray says: {error}"
        ) from error
    finally:
        # Its GPUs are for the next model.
        ray.kill(worker)


def _check_versions(cell: Cell, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    for name, version in ours.items():
        if theirs.get(name) != version:
            raise InputError(
                f"the worker of {cell.model} has {name} {theirs.get(name)}, and this process "
                f"{version}; install the same versions on all machines"
            )


@contextmanager
def _cluster(address: str) -> Generator[Any]:
    """A connection to a cluster; a local one begins and ends with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise CnaLensError(
            f"Ray cannot be imported ({error}); install it with pip install 'cna-lens[ray]'"
        ) from error
    options: dict[str, Any] = {}
    with ExitStack() as stack:
        if address == LOCAL:
            # Ray's sockets lie below this folder, and the path of a socket ends after 107 bytes,
            # which a temporary folder of the system's may be too long for.
            root = os.environ.get("RAY_TMPDIR", "/tmp")
            # Its processes may still write there when they are told to end.
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray-", dir=root, ignore_cleanup_errors=True)
            )
            options = {
                "_temp_dir": folder,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
            }
        stack.callback(ray.shutdown)
        try:
            ray.init(
                address,
                logging_level=logging.WARNING,
                # The experiments are no part of the wheel that machines have installed.
                runtime_env={
                    "py_modules": [str(EXPERIMENTS)],
                    "excludes": ["__pycache__"],
                    "env_vars": {"TQDM_DISABLE": "1"},
                },
                **options,
            )
        except Exception as error:
            raise CnaLensError(
                f"there is no Ray cluster at {address!r}, or none can be started: {error}"
            ) from error
        yield ray
