"""Tasks on a Ray cluster that loses a machine while they run."""

import pytest
import ray_clusters
from ray_jobs import Squares, found, groups, squares

from cna_lens import CnaLensError
from cna_lens.models import Needs
from cna_lens.models.cluster import workers

pytestmark = pytest.mark.ray

SECONDS = 3.0
"""Of each task after the loss: a process outlives its machine by one or two seconds."""


@pytest.fixture
def machines(monkeypatch):
    """A cluster whose first machine runs nothing, so that all others can be lost."""
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.2)
    with ray_clusters.settings(), ray_clusters.cluster(num_cpus=0) as cluster:
        yield cluster


def test_a_lost_machine_stops_no_other_model_and_loses_no_result(tmp_path, machines):
    nodes = [machines.add_node(num_cpus=2) for _ in range(2)]
    machines.wait_for_nodes()
    work, job, lost = groups(Needs(0)), Squares(tmp_path / "begun", SECONDS), []

    def lose(each):
        if not lost and each.task.value == 1:
            node = next(n for n in nodes if n.node_id == each.result["machine"])
            lost.append((each.task.model, node.node_id))
            machines.remove_node(node, allow_graceful=False)

    results = found(work, job, machines.address, lose)
    assert {key: each["square"] for key, each in results.items()} == squares(work)
    ((model, gone),) = lost
    mine = {value: each for (name, value), each in results.items() if name == model}
    assert mine[1]["machine"] == gone
    assert mine[3]["machine"] != gone
    # The other model stayed in its process.
    others = [each for (name, _), each in results.items() if name != model]
    assert len({each["process"] for each in others}) == 1


def test_on_smaller_machines_a_model_takes_what_there_is(tmp_path, machines):
    big = machines.add_node(num_cpus=2)
    small = machines.add_node(num_cpus=1)
    machines.wait_for_nodes()
    job = Squares(tmp_path / "begun", SECONDS)

    def lose(each):
        if each.task.value == 1:
            machines.remove_node(big, allow_graceful=False)

    work = groups(Needs(0), n_models=1)
    results = found(work, job, machines.address, lose)
    places = [results["model-0", value]["machine"] for value in range(4)]
    assert (places[0], places[-1]) == (big.node_id, small.node_id)


def test_a_model_that_fits_on_no_machine_that_is_left_ends_the_run(tmp_path, machines):
    big = machines.add_node(num_cpus=1, num_gpus=2)
    machines.add_node(num_cpus=1, num_gpus=1)
    machines.wait_for_nodes()
    kept = []

    def lose(each):
        kept.append(each.result["square"])
        if each.task.value == 1:
            machines.remove_node(big, allow_graceful=False)

    work = groups(Needs(2), n_models=1)
    with pytest.raises(CnaLensError, match=r"was lost, and model-0 needs 1 CPUs, 2 GPUs, .* kept"):
        found(work, Squares(tmp_path / "begun", SECONDS), machines.address, lose)
    assert kept[:2] == [0, 1]
