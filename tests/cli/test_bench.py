"""`bench rankings`: rankings by name and from files, and what it prints and writes."""

import json
import os
import time
from multiprocessing import active_children

import pytest
from bench_results import scored

from cna_lens import CnaLensError, InputError
from cna_lens.cli import bench as command
from cna_lens.evidence import League, benchmark, planted_model

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

class NoRanking:
    pass

@dataclass(frozen=True)
class Unset(Mine):
    kind: str = ...

    def __init__(self, kind):
        pass
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What the command asks of the bench, which gives a result that is made up."""
    found = {}

    def bench(rankings, **settings):
        found.update(settings, rankings=rankings)
        settings["journal"].mkdir(parents=True, exist_ok=True)
        scores = [scored((False, True, True, False), ranking=each.name) for each in rankings]
        return League(settings["split"], tuple(scores))

    monkeypatch.setattr(benchmark, "bench_rankings", bench)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    return found


def test_rankings_by_name_and_from_a_file_are_run_and_shown(run, asked, tmp_path):
    arguments = ("--ranking", "relp", "--ranking", "own.py:Mine", "--split", "tuning")
    code, output, _ = run("bench", "rankings", *arguments, "--model", "planted/one")
    assert code == 0
    assert [each.name for each in asked["rankings"]] == ["relp", "mine"]
    assert (asked["split"], asked["models"]) == ("tuning", ["planted/one"])
    assert max(map(len, output.splitlines())) <= 80
    for text in ("relp", "mine", "0.70", "0.50", "split tuning"):
        assert text in output
    saved = json.loads((tmp_path / "out/bench/tuning.json").read_text())
    assert [each["ranking"] for each in saved["scored"]] == ["relp", "mine"]
    assert (tmp_path / "out/bench/tuning.svg").stat().st_size > 1000


def test_rankings_of_one_name_are_shown_with_their_settings(run, monkeypatch, asked):
    labels = ["relp(steps=1)", "relp(steps=2)", "probe(seed=0)"]
    league = League("tuning", tuple(scored((True,) * 4, ranking=label) for label in labels))
    monkeypatch.setattr(benchmark, "bench_rankings", lambda *_, **settings: league)
    _, output, _ = run("bench", "rankings", "--split", "tuning")
    assert "probe " in output
    assert "seed=0" not in output
    assert "steps=1" in "".join(output.split())
    assert "steps=2" in "".join(output.split())


def test_without_a_name_all_packaged_rankings_are_run_on_the_reporting_split(run, asked):
    code, output, _ = run("bench", "rankings", "--json")
    assert code == 0
    assert {"contrast", "relp", "random"} < {each.name for each in asked["rankings"]}
    assert (asked["split"], asked["models"]) == ("reporting", None)
    assert json.loads(output)["split"] == "reporting"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "rank is 'nothing', expected one of"),
        ("gone.py:Mine", "gone.py does not exist"),
        ("own.py:Yours", "own.py has no 'Yours'"),
        ("own.py:NoRanking", "expected one of"),
        ("own.py:Unset", "Unset cannot be made without settings"),
    ],
)
def test_what_is_no_ranking_is_refused_before_anything_runs(
    run, asked, without_type_checks, name, message
):
    code, _, errors = run("bench", "rankings", "--ranking", name)
    assert code == 2
    assert message in " ".join(errors.split())
    assert asked == {}


def test_a_figure_of_no_result_is_refused():
    from cna_lens import viz

    with pytest.raises(InputError, match="no result"):
        viz.league(League("tuning", ()))


def test_the_figure_is_described_by_its_means():
    from cna_lens import viz

    two = (
        scored((False, True, True, False), model="planted/one"),
        scored((False, False, False, False), model="planted/two"),
    )
    described = viz.league(League("tuning", two)).description
    assert "mine, share_of_oracle: 1.00 over 2 models" in described
    assert "mine, auroc_within_layers: 0.70 over 2 models" in described


def written(asked, model):
    """Stands for a run: a journal that says which process wrote it."""
    asked.journal.mkdir(parents=True, exist_ok=True)
    (asked.journal / f"{model}.jsonl").write_text(f'{{"bench": {{}}}}\n{{"by": {os.getpid()}}}\n')


def refused(asked, model):
    """Refuses the first model at once; the second would take ten minutes."""
    if model == "two":
        time.sleep(600)
    raise InputError(f"{model} is refused")


def killed(asked, model):
    os._exit(1)


@pytest.fixture
def in_processes(tmp_path, monkeypatch):
    """Run two models in two processes; returns what was said."""

    def run_two(instead, jobs=2):
        # Another process finds this function by its name and module.
        monkeypatch.setattr(command, "_run", instead)
        said = []
        asked = command._Asked(("random",), "tuning", 0, tmp_path / "tuning", None)
        command._in_processes(asked, ["one", "two"][:jobs], jobs, said.append)
        return said

    return run_two


@pytest.mark.long
def test_processes_share_the_models_and_the_folder(in_processes, tmp_path):
    said = in_processes(written)
    by = [json.loads(path.read_text().splitlines()[1])["by"] for path in tmp_path.rglob("*.jsonl")]
    assert len(by) == 2
    assert os.getpid() not in by
    assert said[-1] == "2 of 2 models"


@pytest.mark.long
def test_an_error_in_a_process_is_that_of_the_command(in_processes):
    begun = time.monotonic()
    with pytest.raises(InputError, match="one is refused"):
        in_processes(refused)
    assert time.monotonic() - begun < 300
    assert not active_children()


@pytest.mark.long
def test_a_process_that_dies_is_told_of(in_processes):
    with pytest.raises(CnaLensError, match=r"run the command again with --jobs 1: .* kept in"):
        in_processes(killed)
    with pytest.raises(CnaLensError, match="run the command again where more memory is free"):
        in_processes(killed, jobs=1)


def test_with_jobs_the_models_are_run_before_the_results_are_gathered(run, monkeypatch, asked):
    begun = []
    monkeypatch.setattr(command, "_in_processes", lambda *given: begun.append(given[1:3]))
    code, _, _ = run("bench", "rankings", "--split", "tuning", "--jobs", "3")
    assert code == 0
    names = benchmark.models_of("tuning")
    run("bench", "rankings", "--split", "tuning", "--jobs", "99")
    assert begun == [(names, 3), (names, len(names))]


def test_what_cannot_be_run_is_refused_before_a_process_begins(run, monkeypatch, asked):
    monkeypatch.setattr(command, "_in_processes", lambda *_: pytest.fail("a process began"))
    twice = ("--model", benchmark.models_of("tuning")[0]) * 2
    for more in (twice, ("--half-samples", "1"), ("--ranking", "relp") * 2):
        code, _, errors = run("bench", "rankings", "--split", "tuning", "--jobs", "2", *more)
        assert code == 2
        assert "named twice" in errors or "n_half_samples is 1" in errors


def test_a_process_runs_one_model_with_its_share_of_the_threads(monkeypatch, tmp_path):
    given, threads = [], []
    monkeypatch.setattr(
        benchmark, "bench_rankings", lambda rankings, **more: given.append((rankings, more))
    )
    asked = command._Asked(("random",), "tuning", 4, tmp_path, "cpu")
    command._run(asked, "planted/one")
    ((rankings, more),) = given
    assert [each.name for each in rankings] == ["random"]
    assert (more["models"], more["n_half_samples"]) == (["planted/one"], 4)
    assert (more["journal"], more["device"]) == (tmp_path, "cpu")
    monkeypatch.setattr("torch.set_num_threads", threads.append)
    command._begin(3)
    assert threads == [3]


@pytest.mark.long
@pytest.mark.real_model
def test_a_planted_model_is_shown_with_its_truth(run, tmp_path, monkeypatch):
    monkeypatch.setattr(planted_model, "MAX_NEW_TOKENS", 4)
    name, oracle = "planted/sums-46-all-0", tmp_path / "oracle.py"
    oracle.write_text(ORACLE.format(name=name))
    monkeypatch.chdir(tmp_path)
    rankings = "--ranking", "oracle.py:Oracle", "--ranking", "random"
    code, output, _ = run("bench", "show", name, *rankings, "--out", "shown")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert "…" not in output
    record = json.loads((tmp_path / "shown/sums-46-all-0.json").read_text())
    whole, planted, knows, random = record["rows"]
    assert (record["k"], record["n_neurons"]) == (46, 46080)
    assert whole["shown"]["value"] > 0.9
    assert knows["ablated"] == "oracle"
    for part in ("shown", "kl", "found", "auroc"):
        assert knows[part] == planted[part]
    assert knows["found"] == [46, 46]
    assert knows["auroc"] == 1
    assert knows["shown"]["value"] < 0.1 < 0.9 < random["shown"]["value"]
    assert random["found"][1] < 5
    assert random["auroc"] == pytest.approx(0.5, abs=0.15)
    assert (tmp_path / "shown/sums-46-all-0.svg").stat().st_size > 1000


ORACLE = """
from dataclasses import dataclass
import torch
from cna_lens import Ranking, planted_truth

@dataclass(frozen=True)
class Oracle(Ranking):
    name = "oracle"
    needs = "statistics"

    def score(self, collected):
        values = torch.zeros(collected.positive.layout.n_neurons, dtype=torch.float64)
        values[planted_truth("{name}").places] = 1.0
        return collected.scored(self, values)
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["planted/nothing-138-all-0"], "nothing is planted in planted/nothing-138-all-0"),
        (["planted/none"], "there is no planted model 'planted/none'"),
        (["--ranking", "relp", "--ranking", "relp"], "relp is named twice"),
    ],
)
def test_what_cannot_be_shown_is_refused(run, arguments, message):
    code, _, errors = run("bench", "show", *arguments)
    assert code == 2
    assert message in " ".join(errors.split())
