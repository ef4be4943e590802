"""Ray clusters on this machine that outlive runs, and whose machines are processes."""

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

SUPPORT = Path(__file__).parent


@contextlib.contextmanager
def settings():
    """Keep Ray from writing a token into the home folder, and from lowering workers' priority."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Workers import the same package as this process, and the loaders beside this file.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(SUPPORT), *filter(None, sys.path)]))
        yield


@contextlib.contextmanager
def cluster(**resources):
    """A cluster of one machine with these resources; `add_node` adds others."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    # `Cluster` notes its address there, wherever its own folder is.
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)
    common = {"object_store_memory": 2**27, "include_dashboard": False, "temp_dir": folder}
    # A machine that is lost is noticed within seconds.
    watched = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    watched["health_check_failure_threshold"] = 3
    made = Cluster(
        initialize_head=True, head_node_args={**common, **resources, "_system_config": watched}
    )
    try:
        yield made
    finally:
        made.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
