"""Measure cells on Ray: each model in a worker of its own, and this process keeps the records.

Runs that measure cells in this process do not import Ray.
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
"""How often a model's worker that died is started again in one run."""

EXPERIMENTS = Path(__file__).parents[1]
OBJECT_STORE_BYTES = 2**27
"""Object store of a local cluster: it holds records, which are small, and no models."""


@dataclass(frozen=True)
class Needs:
    """The resources of a cluster that the worker of a model takes.

    Attributes:
        gpus: number of GPUs to spread the model over; a cluster without GPUs runs a model that
            needs one GPU on CPUs.
        memory_gib: memory of the model; None where it is unknown.
    """

    gpus: int
    memory_gib: float | None = None


@dataclass(frozen=True)
class OnRay:
    """Measures cells on a Ray cluster, as many models at a time as it has room for.

    A worker loads its model once and measures that model's cells one after the other; a model's
    GPUs are free for the next model when its cells are finished. A worker that dies is started
    again, and measures its current cell again.

    Attributes:
        address: of a cluster; "local" for one that begins and ends with the run.
        needs: gives the resources of the worker for a cell.
    """

    address: str
    needs: Callable[[Cell], Needs]

    def __call__(self, cells: Sequence[Cell], load: Load, ledger: Ledger) -> None:
        """Measure all cells, and keep each as soon as it is finished.

        Raises:
            CnaLensError: Ray is not installed, there is no such cluster, or a worker died too
                often.
            InputError: no machine of the cluster has the resources that a model needs, or a worker
                has other versions of the libraries.
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
    """The resources to request from Ray.

    On CPUs the models share the processors of the cluster evenly.

    Args:
        model: its name, for the error.
        needs: its needs.
        machines: the resources of each machine of the cluster, in Ray's words and units.
        n_models: number of models that are measured.

    Raises:
        InputError: no machine has as much. Ray would wait for one forever.
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
        """Load nothing yet, so that an error of loading is reported as an error of a cell."""
        self._load = load
        self._provenance = provenance
        self._loaded: Loaded | None = None

    def begin(self, cell: Cell) -> tuple[str, dict[str, str]]:
        """The hash of the model's weights, and the versions of the libraries here."""
        return self._on(cell).weights_sha256, dict(library_versions())

    def measure(self, cell: Cell) -> tuple[dict[str, Any], str]:
        """The record of a cell, and its output on the screen."""
        loaded = self._on(cell)
        with redirect_stdout(io.StringIO()) as shown:
            record = measured(cell, loaded, self._provenance)
        return record, shown.getvalue()

    def _on(self, cell: Cell) -> Loaded:
        # A worker that was started again has not been asked to begin.
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
            # Ray's sockets lie below this folder, and the path of a socket has at most 107 bytes;
            # the system's temporary folder may have a longer one.
            root = os.environ.get("RAY_TMPDIR", "/tmp")
            # Ray's processes may still write there while they end.
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
                # The wheel that machines have installed does not contain the experiments.
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
