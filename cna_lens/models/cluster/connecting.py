"""A connection to a Ray cluster, and the machines that it has."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cna_lens.errors import CnaLensError
from cna_lens.models.cluster.placing import Machine

LOCAL = "local"

OBJECT_STORE_BYTES = 2**27
"""Object store of a local cluster: it holds records, which are small, and no models."""


@contextmanager
def cluster(address: str, code: Sequence[Path]) -> Generator[Any]:
    """Connect to a cluster; a local one begins and ends with the context.

    Args:
        address: of the cluster, or "local".
        code: folders of packages that workers import and machines have not installed.

    Raises:
        CnaLensError: Ray is not installed, or there is no such cluster.
    """
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
                runtime_env={"env_vars": {"TQDM_DISABLE": "1"}, **_sent(code)},
                **options,
            )
        except Exception as error:
            raise CnaLensError(
                f"there is no Ray cluster at {address!r}, or none can be started: {error}"
            ) from error
        yield ray


def _sent(code: Sequence[Path]) -> dict[str, Any]:
    # Ray takes an empty list for a package without a name.
    if not code:
        return {}
    return {"py_modules": [str(folder) for folder in code], "excludes": ["__pycache__"]}


def machines_of(ray: Any, known: dict[str, int | None] | None = None) -> list[Machine]:
    """Return the machines that are there now.

    Args:
        ray: the connected module.
        known: the memory of a GPU by the id of its machine; machines with GPUs that are not there
            yet are asked, and added. None asks no machine.
    """
    alive = [node for node in ray.nodes() if node["Alive"]]
    if known is not None:
        asked = [
            node["NodeID"]
            for node in alive
            if node["Resources"].get("GPU") and node["NodeID"] not in known
        ]
        known.update(_gpu_bytes(ray, asked))
    return [
        Machine(
            node["Resources"].get("CPU", 0),
            node["Resources"].get("GPU", 0),
            node["Resources"].get("memory", 0),
            (known or {}).get(node["NodeID"]),
        )
        for node in alive
    ]


def _gpu_bytes(ray: Any, nodes: Sequence[str]) -> dict[str, int | None]:
    """Ask machines for the memory of their smallest GPU; takes no GPU from those at work."""
    from ray.exceptions import RaySystemError, TaskUnschedulableError, WorkerCrashedError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A worker without a GPU of its own would see none.
    see_all = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    # The process ends with its answer, since it would hold memory of a GPU.
    measure = ray.remote(num_cpus=0, max_calls=1, runtime_env=see_all)(smallest_gpu)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    asked = [measure.options(scheduling_strategy=place).remote() for place in places]
    found: dict[str, int | None] = {}
    for node, answer in zip(nodes, asked, strict=True):
        # A machine that is lost meanwhile is not there when it is looked for again.
        with suppress(RaySystemError, TaskUnschedulableError, WorkerCrashedError):
            found[node] = ray.get(answer)
    return found


def smallest_gpu() -> int | None:
    """Return the bytes of this machine's smallest GPU; None where PyTorch sees none."""
    import torch

    count = torch.cuda.device_count()
    sizes = [torch.cuda.get_device_properties(each).total_memory for each in range(count)]
    return min(sizes, default=None)
