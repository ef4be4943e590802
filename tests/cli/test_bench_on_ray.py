"""The bench on Ray: the same results and the same journal as in this process."""

import json
from dataclasses import replace
from functools import partial

import pytest
import ray_clusters
from ray_jobs import MadeUpBench

from cna_lens import CnaLensError, InputError, RandomScores, requirements
from cna_lens.cli.options import ranking_of
from cna_lens.evidence import bench_rankings, benchmark, planted_model

pytestmark = pytest.mark.ray

NAMES = benchmark.models_of("tuning")[:3]
OWN = """
from dataclasses import dataclass
from cna_lens import Ranking

@dataclass(frozen=True)
class Mine(Ranking):
    power: int = 2
    name = "mine"
    needs = "statistics"

    def score(self, collected):
        return collected.scored(self, collected.positive.mean ** self.power)
"""


@pytest.fixture(scope="module", autouse=True)
def ray_settings():
    with ray_clusters.settings():
        yield


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The bench on three models, with a ranking that is in no module."""
    monkeypatch.setattr(benchmark, "Bench", MadeUpBench)
    (tmp_path / "own.py").write_text(OWN)
    rankings = [RandomScores(), ranking_of(f"{tmp_path / 'own.py'}:Mine")]
    return partial(
        bench_rankings, rankings, split="tuning", models=NAMES, n_half_samples=2, device="cpu"
    )


def journals(folder):
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def test_results_and_journals_are_those_of_one_process(asked, tmp_path):
    alone, on_ray, shown = tmp_path / "alone", tmp_path / "on ray", []
    expected = asked(journal=alone)
    assert asked(journal=on_ray, ray="local", show=shown.append) == expected
    assert len(journals(alone)) == 3
    assert journals(on_ray) == journals(alone)
    assert {each.model for each in shown[0]} == set(NAMES)
    assert {each.n_tasks for each in shown[0]} == {4}
    # Nothing is left to run, so that no cluster is looked for.
    assert asked(journal=on_ray, ray="nowhere") == expected


def test_a_run_goes_on_where_another_one_stopped(asked, tmp_path):
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    expected = asked(journal=whole)
    begun.mkdir()
    for name, text in journals(whole).items():
        (begun / name).write_text("".join(text.splitlines(keepends=True)[:3]))
    shown = []
    assert asked(journal=begun, ray="local", show=shown.append) == expected
    assert {each.n_tasks for each in shown[0]} == {2}
    assert journals(begun) == journals(whole)


def test_the_command_runs_the_bench_on_ray(run, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = [word for name in NAMES[:2] for word in ("--model", name)]
    common = ("bench", "rankings", "--split", "tuning", "--ranking", "random", *models)
    code, _, errors = run(*common, "--out", "alone", "--device", "cpu")
    assert code == 0, errors
    code, _, errors = run(*common, "--out", "on ray", "--device", "cpu", "--ray", "local")
    assert code == 0, errors
    alone, on_ray = (
        json.loads((tmp_path / name / "tuning.json").read_text()) for name in ("alone", "on ray")
    )
    assert on_ray == alone
    code, _, errors = run(*common, "--ray", "local", "--jobs", "2")
    assert code == 2
    assert "give one" in errors


def test_what_cannot_be_run_is_refused_before_a_cluster_begins(asked):
    with pytest.raises(InputError, match="'cuda:1'; Ray chooses which GPU"):
        asked(ray="nowhere", device="cuda:1")
    with pytest.raises(CnaLensError, match="there is no Ray cluster at 'nowhere'"):
        asked(ray="nowhere")


@pytest.mark.parametrize("device", [None, "cuda", "cpu"])
def test_needs_of_a_planted_model_come_from_its_estimate(asked, monkeypatch, device):
    given = []

    def run_on_ray(groups, *_, **__):
        given.extend(groups)
        return
        yield

    monkeypatch.setattr(benchmark, "run_on_ray", run_on_ray)
    with pytest.raises(KeyError):
        asked(ray="local", device=device)
    assert [each.model for each in given] == list(NAMES)
    needs = given[0].needs
    assert needs.gpus == (0 if device == "cpu" else None)
    assert needs.memory_gib is None
    found = needs.estimate("cpu")
    planted = requirements(NAMES[0], device="cpu", new_tokens=planted_model.MAX_NEW_TOKENS)
    assert replace(found, model=NAMES[0]) == planted
