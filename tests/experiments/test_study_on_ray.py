"""Cells on real Ray clusters: failing workers change no record."""

import contextlib
import json
import os
import signal
import sys
import threading

import harness_tasks
import hub_mirror
import psutil
import pytest
import ray
import ray_clusters
import ray_workers
from reproducing import PAIRS, records, reproduce, write_settings

from cna_lens import CnaLensError, InputError
from cna_lens.models import Needs
from cna_lens.models.cluster import workers
from cna_lens.results import Journal
from experiments.study.cells import Cell
from experiments.study.on_ray import OnRay
from experiments.study.running import run_cells

pytestmark = pytest.mark.ray

CELLS = [Cell("answers", f"model-{i % 2}", "float32", block=i) for i in range(8)]
ONE_MODEL = CELLS[::2]
OF_THE_RUN = ("seconds", "finished", "threads")
"""Provenance that differs from run to run."""


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with harness_tasks.data_sets_offline(tmp_path_factory.mktemp("datasets")):
        yield


@pytest.fixture(scope="module", autouse=True)
def ray_settings():
    with ray_clusters.settings():
        yield


@pytest.fixture(scope="module")
def address(ray_settings):
    """A cluster that outlives runs, and claims to have GPUs."""
    with ray_clusters.cluster(num_cpus=2, num_gpus=3) as cluster:
        yield cluster.address


def run(path, address, load, cells=CELLS, gpus=1):
    return run_cells(
        cells,
        Journal(path, "study", {}),
        load,
        config_sha256="c",
        progress=False,
        measuring=OnRay(address, lambda cell: Needs(gpus)),
    )


def blocks(path):
    return [json.loads(line)["cell"]["block"] for line in path.read_text().splitlines()[1:]]


def of_the_study(out):
    """Records without the provenance that differs from run to run."""
    return {
        key: record
        | {"provenance": {k: v for k, v in record["provenance"].items() if k not in OF_THE_RUN}}
        for key, record in records(out).items()
    }


def children():
    return psutil.Process().children(recursive=True)


def kill_a_measuring_worker():
    """Kill one worker that measures a cell; returns its process id."""
    for process in children():
        with contextlib.suppress(psutil.Error):
            if "Remote.run" in " ".join(process.cmdline()):
                process.kill()
                return process.pid
    return None


def test_a_worker_killed_in_the_middle_changes_no_record(tmp_path):
    mirror = hub_mirror.save(tmp_path / "hub")
    config = write_settings(tmp_path / "pair.toml", next(iter(PAIRS)))
    killed, ended = [], threading.Event()

    def kill():
        path = tmp_path / "on ray" / "records.jsonl"
        while not any(killed) and not ended.wait(0.005):
            if path.exists() and path.read_bytes().count(b"\n") > 2:
                killed.append(kill_a_measuring_worker())

    before = set(children())
    killing = threading.Thread(target=kill)
    killing.start()
    try:
        assert reproduce("table3", config, mirror, tmp_path / "on ray", "--ray", "local") == 0
    finally:
        ended.set()
        killing.join()
    assert any(killed)
    assert set(children()) <= before
    assert reproduce("table3", config, mirror, tmp_path / "in process") == 0
    assert of_the_study(tmp_path / "on ray") == of_the_study(tmp_path / "in process")
    assert (tmp_path / "on ray" / "table3.md").exists()


def test_an_error_of_a_cell_is_raised_as_in_one_process(tmp_path, address):
    # Of three GPUs, two are one model's: the other one waits for them.
    path, alone = tmp_path / "on ray.jsonl", tmp_path / "alone.jsonl"
    failing = ray_workers.Failing(5)
    with pytest.raises(ZeroDivisionError, match=r"^cell 5 has no answer$"):
        run(path, address, failing, gpus=2)
    with pytest.raises(ZeroDivisionError, match=r"^cell 5 has no answer$"):
        run_cells(CELLS, Journal(alone, "study", {}), failing, config_sha256="c", progress=False)
    assert blocks(path) == blocks(alone) == [0, 2, 4, 6, 1, 3]
    values = [json.loads(line)["values"] for line in path.read_text().splitlines()[1:]]
    assert all(len(each["gpus"].split(",")) == 2 for each in values)
    # Each model in one process, which is not this one.
    assert len({each["process"] for each in values[:4]} | {os.getpid()}) == 2
    assert len({each["process"] for each in values}) == 2


def test_a_cell_that_kills_every_worker_is_given_up(tmp_path, address, monkeypatch, capsys):
    monkeypatch.setattr(workers, "RESTARTS", 1)
    path, deaths = tmp_path / "records.jsonl", tmp_path / "deaths"
    with pytest.raises(CnaLensError, match=r"Ray gave up on answers, model-0.*up to 1 new"):
        run(path, address, ray_workers.Deadly(4, deaths), ONE_MODEL)
    assert len(set(deaths.read_text().split())) == 2
    assert blocks(path) == [0, 2]
    assert "cell 0\n" in capsys.readouterr().out


def test_an_interrupt_ends_the_workers_and_keeps_finished_cells(tmp_path, address):
    path = tmp_path / "records.jsonl"
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(path, address, ray_workers.Interrupting(4, os.getpid()), ONE_MODEL)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert blocks(path) == [0, 2]
    assert not ray.is_initialized()


def test_weights_and_libraries_of_workers_are_checked(tmp_path, address, monkeypatch):
    path = tmp_path / "records.jsonl"
    cell, *others = ONE_MODEL
    known = {"weights_sha256": "others", "versions": {}}
    Journal(path, "study", {}).add(cell.key, {"cell": cell.record(), "provenance": known})
    with pytest.raises(InputError, match="the weights of model-0 are weights of"):
        run(path, address, ray_workers.Load(), others)
    monkeypatch.setattr(workers, "library_versions", lambda: (("torch", "0.4"),))
    with pytest.raises(InputError, match=r"the worker of model-0 has torch .*, and this process 0"):
        run(path, address, ray_workers.Load(), others)


def test_a_missing_cluster_is_an_error(tmp_path):
    with pytest.raises(CnaLensError, match="there is no Ray cluster at 'nowhere'"):
        run(tmp_path / "records.jsonl", "nowhere", ray_workers.Load())


def test_without_ray_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CnaLensError, match=r"pip install 'cna-lens\[ray\]'"):
        run(tmp_path / "records.jsonl", "local", ray_workers.Load())
