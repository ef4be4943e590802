"""Tasks on a real Ray cluster: what is placed where, and what survives a killed worker."""

from collections import Counter
from functools import partial

import pytest
import ray_clusters
from ray_jobs import DyingAlways, DyingOnce, Squares, begun, found, groups, squares

from cna_lens import CnaLensError, InputError, requirements
from cna_lens.models import (
    Machine,
    Needs,
    WorkerRows,
    Working,
    resources,
)
from cna_lens.models.cluster import connecting, showing, workers
from cna_lens.models.cluster.placing import PROCESS_GIB

pytestmark = pytest.mark.ray

GIB = 2**30


@pytest.fixture(scope="module", autouse=True)
def ray_settings():
    with ray_clusters.settings():
        yield


@pytest.fixture(scope="module")
def address(ray_settings):
    """A machine of two processors that claims to have three GPUs."""
    with ray_clusters.cluster(num_cpus=2, num_gpus=3) as cluster:
        yield cluster.address


def test_each_model_has_one_process_and_its_gpus(tmp_path, address):
    work, shown, checked = groups(Needs(1)), [], []
    results = found(
        work,
        Squares(tmp_path / "begun"),
        address,
        check=lambda task, about: checked.append((task.model, about)),
        show=shown.append,
    )
    assert {key: each["square"] for key, each in results.items()} == squares(work)
    for model in ("model-0", "model-1"):
        mine = [each for (name, _), each in results.items() if name == model]
        assert len({each["process"] for each in mine}) == 1
        assert {each["loaded in"] for each in mine} == {mine[0]["process"]}
        assert len(mine[0]["gpus"].split(",")) == 1
        assert checked.count((model, f"process {mine[0]['process']}")) == 1
        assert [n for name, n, _ in begun(Squares(tmp_path / "begun")) if name == model] == [
            *range(4)
        ]
    assert len(checked) == 2
    # What every model is doing is shown together, from the beginning to the end.
    assert shown[0] == [Working(f"model-{i}", "waiting", 0, 4) for i in range(2)]
    doing = [each for states in shown for each in states if each.model == "model-0"]
    assert [each.doing for each in dict.fromkeys(doing)] == [
        *("waiting", "loading"),
        *(f"square of {i}" for i in range(4)),
    ]
    assert [each.finished for each in dict.fromkeys(doing)] == [0, 0, 0, 1, 2, 3]
    assert shown[-1] == []


def test_a_killed_worker_repeats_its_task_alone(tmp_path, address):
    work, job, checked = groups(Needs(0)), DyingOnce(tmp_path / "begun"), []
    results = found(work, job, address, check=lambda task, about: checked.append(about))
    assert {key: each["square"] for key, each in results.items()} == squares(work)
    times = Counter((model, value) for model, value, _ in begun(job))
    assert sorted(times.values()) == [1] * 7 + [2]
    # The new process has loaded the model again, and is checked again.
    assert len(checked) == 3


def test_a_task_that_kills_every_worker_is_given_up(tmp_path, address, monkeypatch):
    monkeypatch.setattr(workers, "RESTARTS", 1)
    job, kept = DyingAlways(tmp_path / "begun"), []
    with pytest.raises(CnaLensError, match=r"Ray gave up on square of 2, after up to 1 new"):
        found(groups(Needs(0), n_models=1), job, address, lambda each: kept.append(each.result))
    assert [each["square"] for each in kept] == [0, 1]
    assert [value for _, value, _ in begun(job)] == [0, 1, 2, 2]


def test_versions_are_checked(tmp_path, address, monkeypatch):
    monkeypatch.setattr(workers, "library_versions", lambda: (("torch", "0.4"),))
    with pytest.raises(InputError, match=r"worker of model-0 has torch .*, and this process 0\.4"):
        found(groups(Needs(0), 1), Squares(tmp_path / "begun"), address)
    assert not (tmp_path / "begun").exists()


def test_without_tasks_no_cluster_begins(tmp_path):
    assert found([], Squares(tmp_path / "begun"), "nowhere") == {}


# Where a model is placed


@pytest.mark.parametrize(
    ("needs", "machines", "asked"),
    [
        (Needs(1), [Machine(16, 8)], {"num_cpus": 1, "num_gpus": 1}),
        (Needs(3, 165.0), [Machine(16, 8)], {"num_cpus": 1, "num_gpus": 3}),
        # Without a GPU, models share the processors of all machines, each on one of them.
        (Needs(1), [Machine(16)], {"num_cpus": 8}),
        (Needs(0, 2.0), [Machine(16, 8, 4 * GIB)], {"num_cpus": 8, "memory": 2 * GIB}),
        (Needs(1), [Machine(4), Machine(12), Machine()], {"num_cpus": 8}),
        (Needs(1), [Machine(4), Machine(6)], {"num_cpus": 5}),
        (Needs(1), [Machine(4)] * 9, {"num_cpus": 4}),
        (Needs(1), [Machine(1)], {"num_cpus": 1}),
        # The machine with more processors has too little memory.
        (
            Needs(0, 6.0),
            [Machine(4, 0, 8 * GIB), Machine(16, 0, GIB)],
            {"num_cpus": 4, "memory": 6 * GIB},
        ),
    ],
)
def test_a_model_takes_its_gpus_or_its_share_of_the_processors(needs, machines, asked):
    assert resources("m", needs, machines, n_models=2) == asked


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(3), "m needs 1 CPUs, 3 GPUs, and no machine of the Ray cluster has as much; they"),
        (Needs(0, 9.0), r"m needs 4 CPUs, 9.0 GiB, .* have 4 CPUs, 2 GPUs, 8.0 GiB; 4 CPUs"),
    ],
)
def test_resources_that_no_machine_has_are_refused(needs, message):
    machines = [Machine(4, 2, 8 * GIB), Machine(4, 0, 8 * GIB)]
    with pytest.raises(InputError, match=message):
        resources("m", needs, machines, n_models=2)


@pytest.fixture(scope="module")
def estimate():
    return partial(requirements, "demo", new_tokens=12)


def test_without_settings_the_memory_on_a_cpu_is_the_estimate(estimate):
    needs = estimate(device="cpu")
    asked = resources(
        "m", Needs(estimate=lambda kind: estimate(device=kind)), [Machine(2, 0, 64 * GIB)], 1
    )
    most = max(needs.discovery, needs.generation)
    assert asked == {"num_cpus": 2, "memory": most + int(PROCESS_GIB * GIB)}


def test_without_settings_the_cards_are_those_of_the_estimate(estimate):
    needs, sizes = estimate(device="cuda"), {}
    for size in range(2**28, 64 * GIB, 2**25):
        sizes.setdefault(needs.cards(size), size)
    one, two = sizes[1], sizes[2]
    asking = Needs(estimate=lambda kind: estimate(device=kind))

    def cards(*machines):
        return resources("m", asking, machines, n_models=1)["num_gpus"]

    assert cards(Machine(4, 8, GIB, one)) == 1
    assert cards(Machine(4, 8, GIB, two)) == 2
    # Ray may choose either machine, so that the number has to do on both,
    assert cards(Machine(4, 8, GIB, one), Machine(4, 8, GIB, two)) == 2
    # and machines without so many GPUs are not chosen.
    assert cards(Machine(4, 8, GIB, two), Machine(4, 1, GIB, two)) == 2
    # One GPU where the memory is unknown; named numbers come first.
    assert cards(Machine(4, 8, GIB)) == 1
    assert (
        resources("m", Needs(3, None, asking.estimate), [Machine(4, 8, GIB, two)], 1)["num_gpus"]
        == 3
    )
    with pytest.raises(InputError, match=r"m needs 2 GPUs of .* GiB, .* 4 CPUs, 1 GPUs of .* GiB"):
        cards(Machine(4, 1, GIB, two))
    with pytest.raises(InputError, match=r"m needs more than any number of GPUs of 0\.2 GiB"):
        cards(Machine(4, 8, GIB, 2**28))


def test_machines_with_gpus_are_asked_for_their_memory_once(address, monkeypatch):
    with connecting.cluster(address, []) as connected:
        known = {}
        (machine,) = connecting.machines_of(connected, known)
        assert (machine.cpus, machine.gpus) == (2, 3)
        # Here the machine may only claim to have GPUs.
        assert list(known.values()) == [machine.gpu_bytes] == [connecting.smallest_gpu()]
        known = dict.fromkeys(known, 5)
        assert connecting.machines_of(connected, known)[0].gpu_bytes == 5


def test_every_running_model_has_a_row(monkeypatch, capsys):
    drawn = partial(showing.tqdm, ascii=True)
    monkeypatch.setattr(showing, "tqdm", lambda **given: drawn(**{**given, "disable": False}))
    states = [Working("one", "contrast", 2, 8), Working("two", "loading", 0, 3)]
    with WorkerRows() as rows:
        line = rows([*states, Working("three", "waiting", 0, 8)])
        assert {name: row.n for name, row in rows._rows.items()} == {"one": 2, "two": 0}
        assert rows(states[1:]) == "two 0/3 loading"
        assert list(rows._rows) == ["two"]
    assert not rows._rows
    assert line == "one 2/8 contrast; two 0/3 loading; 1 waiting"
    written = capsys.readouterr().err
    assert "one: 2/8, contrast" in written
    assert "two: 0/3, loading" in written
