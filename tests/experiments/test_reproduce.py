"""The command on tiny Llama and Qwen2 checkpoints in the Hub's layout."""

import json
import os
import shutil
import signal
import sys
import time
from functools import partial

import harness_tasks
import hub_mirror
import pytest
import torch
from processes import child
from reproducing import PAIRS, records, reproduce, values, write_settings

import cna_lens
from cna_lens import CnaLensError, UniversalRule, cli
from cna_lens.cli import reproduce as forwarding
from cna_lens.metrics import refusal_log_odds
from experiments import __main__ as experiments
from experiments.catalogue import EXPERIMENTS
from experiments.command import app
from experiments.study import measures, paper
from experiments.study.bench import Bench
from experiments.study.cells import Cell, Discovery, Steering
from experiments.study.settings import load_study
from experiments.study.sources import Sources

# It takes half a minute, most of it before the first test.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with harness_tasks.data_sets_offline(tmp_path_factory.mktemp("datasets")):
        yield


@pytest.fixture(scope="module", autouse=True)
def no_ray():
    """Make every import of Ray fail; only runs on Ray may import it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        yield


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return hub_mirror.save(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def llama(tmp_path):
    return write_settings(tmp_path / "llama.toml", "Llama-3.2-1B")


@pytest.fixture
def no_model(monkeypatch):
    """A wide screen; loading a model fails."""
    monkeypatch.setenv("COLUMNS", "120")

    def load(*given, **options):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(cna_lens, "load_model", load)


@pytest.fixture(scope="module")
def finished(mirror, tmp_path_factory):
    """All experiments on both families, base and instruct."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_settings(folder / "both.toml", *PAIRS)
    assert reproduce("all", config, mirror, folder / "out") == 0
    return folder / "out"


def test_every_experiment_runs_through_on_both_families(finished):
    for name, experiment in EXPERIMENTS.items():
        if name == "strongreject":
            continue
        report = json.loads((finished / f"{name}.json").read_text())
        text = (finished / f"{name}.md").read_text()
        models = {row["model"].split(",")[0] for row in report["rows"]}
        assert set(PAIRS) <= models, name
        assert experiment.title in text.splitlines()[0]
        assert all(row["ours"] is None or row["ours"]["n"] >= 1 for row in report["rows"])
        if name.startswith("settle"):
            assert text.splitlines()[-1] == report["answer"]
            assert all(f"{pair}, instruct" in report["answer"] for pair in PAIRS)
            assert "(n = " in report["answer"]
    for name in ("figure1", "figure2", "figure3"):
        assert (finished / f"{name}.png").stat().st_size > 1000


def test_the_papers_values_stand_beside_those_of_the_same_model(finished):
    rows = json.loads((finished / "table1.json").read_text())["rows"]
    papers = {(row["model"], row["quantity"]): row["paper"] for row in rows}
    assert papers["Qwen2.5-3B, instruct", "refused, CNA"] == paper.TABLE1["Qwen2.5-3B"].cna
    assert papers["Llama-3.2-1B, instruct", "quality, CAA"] == 0.554


def test_an_experiment_that_cannot_run_is_named_with_its_reason(finished):
    assert "- strongreject: no judge is given" in (finished / "all.md").read_text()


def test_records_hold_no_texts_and_have_their_provenance(finished):
    stored = (finished / "records.jsonl").read_text()
    assert "Request number" not in stored
    assert not (finished / "texts").exists()
    weights = {}
    for record in records(finished).values():
        provenance = record["provenance"]
        weights.setdefault(record["cell"]["model"], set()).add(provenance["weights_sha256"])
        assert provenance["device"] == "cpu"
        assert provenance["seconds"] >= 0
    assert len(weights) == 4
    assert all(len(hashes) == 1 for hashes in weights.values())


def test_a_cell_holds_the_same_values_as_the_library_gives(finished, mirror):
    model = cna_lens.load_model(mirror / "tiny/llama-Instruct", device="cpu")
    requests = [f"Request number {i} of this set" for i in (0, 3, 6)]
    discovery = cna_lens.prompt_set("refusal_small")
    circuit = cna_lens.find_circuit(
        model, discovery.positive, discovery.negative, fraction=0.05, progress=False
    )
    expected = {"unsteered": refusal_log_odds(model, requests)}
    with cna_lens.steer(model, circuit, multiplier=0.0):
        expected["scale"] = refusal_log_odds(model, requests)
    with cna_lens.caa(model, discovery.positive, discovery.negative).at(model):
        expected["caa"] = refusal_log_odds(model, requests)
    found = {}
    for record in records(finished).values():
        cell = record["cell"]
        steering = cell["steering"]
        papers = steering["discovery"] in (
            None,
            {"fraction": 0.05, "k": None, "control": None, "chat": True, "sign": "abs"}
            | {"prompts": "refusal_small", "ranking": "contrast", "universal": "before"},
            # The vectors of CAA have neither sign nor size.
            {"fraction": None, "k": None, "control": None, "chat": True, "sign": "abs"}
            | {"prompts": "refusal_small", "ranking": "contrast", "universal": "before"},
        )
        if (cell["model"], cell["measure"]) == ("tiny/llama-Instruct", "answers") and papers:
            blocks = found.setdefault(steering["method"], {})
            blocks[cell["block"]] = record["values"]["log_odds"]
    assert set(found) == set(expected)
    for method, blocks in found.items():
        assert [*blocks[0], *blocks[1]] == pytest.approx(expected[method], abs=1e-4)
    assert expected["scale"] != pytest.approx(expected["unsteered"], abs=1e-4)


def test_mirrors_of_the_same_data_set_are_told_apart(mirror, tmp_path):
    other = tmp_path / hub_mirror.JBB
    shutil.copytree(mirror / hub_mirror.JBB, other)
    data = other / "data" / "harmful-behaviors.csv"
    data.write_text(data.read_text().replace("Request number", "Another request number"))
    first, second = (
        Sources(root).harmful_requests(hub_mirror.JBB, None) for root in (mirror, tmp_path)
    )
    assert (first[1], second[1]) == (
        "Request number 1 of this set",
        "Another request number 1 of this set",
    )


def test_a_run_killed_in_the_middle_goes_on_to_the_same_values(finished, llama, mirror, tmp_path):
    out = tmp_path / "out"
    path = out / "records.jsonl"

    def work():
        torch.set_num_threads(1)
        reproduce("table3", llama, mirror, out)

    with child(work):
        for _ in range(3000):
            if path.exists() and path.read_bytes().count(b"\n") > 2:
                break
            time.sleep(0.02)
    before = values(out)
    assert 1 < len(before) < 6
    assert reproduce("table3", llama, mirror, out) == 0
    after = values(out)
    assert len(after) == 6
    assert len(path.read_text().splitlines()) == 7
    assert before.items() <= after.items()
    assert after.items() <= values(finished).items()


def test_an_interrupt_ends_with_a_message_and_the_next_run_goes_on(
    llama, mirror, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    shown, calls = measures.MEASURES["shown"], []

    def interrupted(bench, cell):
        calls.append(cell)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        return shown(bench, cell)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setitem(measures.MEASURES, "shown", interrupted)
    try:
        assert reproduce("table4", llama, mirror, out) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "2 of 6 cells are finished" in capsys.readouterr().err
    assert reproduce("table4", llama, mirror, out) == 0
    assert len(calls) == 7


def test_table4_shows_answers_and_keeps_them_only_if_asked(
    finished, llama, mirror, tmp_path, capsys
):
    assert reproduce("table4", llama, mirror, tmp_path / "out", "--keep-text") == 0
    assert "> Request number 0 of this set" in "".join(capsys.readouterr())
    texts = sorted((tmp_path / "out" / "texts").glob("*.jsonl"))
    assert len(texts) == 6
    assert "do not publish" in texts[0].read_text().splitlines()[0]
    assert not (finished / "texts").exists()
    assert values(tmp_path / "out").items() <= values(finished).items()


def test_other_settings_do_not_mix_with_finished_cells(finished, llama):
    for option, name in (("--limit", "limit"), ("--seed", "seed")):
        with pytest.raises(cna_lens.InputError, match=f"holds a study with {name}"):
            app(
                [
                    "table3",
                    "--config",
                    str(llama),
                    "--out",
                    str(finished),
                    option,
                    "2",
                ],
                standalone_mode=False,
            )


def test_a_dry_run_lists_the_remaining_work_and_does_nothing(
    llama, mirror, tmp_path, no_model, capsys
):
    out = tmp_path / "out"
    assert reproduce("table3", llama, mirror, out, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert not out.exists()
    assert "6 of 6 cells are to be measured" in printed
    # 3 requests under 3 conditions, answered and asked for log-odds; 56 prompts for the circuit.
    assert "discovery, tiny/llama-Instruct, contrast of refusal_small" in printed
    (total,) = [line for line in printed.splitlines() if line.startswith("│ all")]
    cells, passes, _, written = map(int, total.replace(",", "").split("│")[2:6])
    assert (cells, passes, written) == (6, 74, 45)
    assert "Time: unknown" in printed


def test_a_finished_study_has_nothing_left_to_do(finished, mirror, tmp_path, no_model, capsys):
    both = write_settings(tmp_path / "both.toml", *PAIRS)
    assert reproduce("all", both, mirror, finished, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "0 of " in printed
    assert "Time: about 0 min" in printed


def test_both_readings_of_caas_sign_can_be_run(finished, llama, mirror, tmp_path):
    out = tmp_path / "out"
    assert reproduce("figure1", llama, mirror, out, "--caa-sign", "add") == 0
    subtracted = {cell_of(record): record["values"] for record in records(finished).values()}
    added = [r for r in records(out).values() if r["cell"]["steering"]["method"] == "caa"]
    assert added
    for record in added:
        record["cell"]["steering"]["caa_sign"] = "subtract"
        assert subtracted[cell_of(record)]["log_odds"] != record["values"]["log_odds"]
    for folder, told in ((out, True), (finished, False)):
        assert ("are added, as in the authors' code" in (folder / "figure1.md").read_text()) == told


def cell_of(record):
    return json.dumps(record["cell"], sort_keys=True)


def test_both_readings_of_the_universal_filter_can_be_run(llama, mirror, tmp_path, monkeypatch):
    # With so few neurons, none is in the top 0.1 % on most prompts.
    easier = partial(cna_lens.universal_neurons, rule=UniversalRule(0.1, 0.5))
    monkeypatch.setattr(cna_lens, "universal_neurons", easier)
    study, sources = load_study(llama), Sources(mirror)
    bench = Bench(study, sources, study.subjects("instruct")[0], tmp_path, device="cpu")
    circuits = {
        when: bench.circuit(Discovery("refusal_small", k=60, universal=when))
        for when in ("before", "after", "none")
    }
    universal = set(bench.universal(Discovery("refusal_small")).neurons)
    assert universal & set(circuits["none"])
    assert set(circuits["after"]) == set(circuits["none"]) - universal
    assert not universal & set(circuits["before"])
    assert len(circuits["before"]) == 60
    resampled = {
        when: measures.circuit(bench, _circuit_cell(k=60, universal=when))
        for when in ("before", "after", "none")
    }
    for when, found in resampled.items():
        assert found["neurons"] == flat_places(circuits[when])
    after, none = resampled["after"]["resampled"], resampled["none"]["resampled"]
    flat = set(circuits["none"].layout.flat_all(sorted(universal)).tolist())
    assert [set(row) for row in after] == [set(row) - flat for row in none]


def _circuit_cell(**changes):
    found = Discovery("refusal_small", **changes)
    return Cell("circuit", "tiny/llama-Instruct", "float32", Steering(discovery=found))


def flat_places(circuit):
    return circuit.layout.flat_all(circuit).tolist()


def test_a_control_has_as_many_other_neurons_in_the_same_layers(llama, mirror, tmp_path):
    study = load_study(llama)
    bench = Bench(study, Sources(mirror), study.subjects("instruct")[0], tmp_path, device="cpu")
    circuit = bench.circuit(Discovery("refusal_small", k=6))
    for match in ("layer", "magnitude"):
        found = Discovery("refusal_small", k=6, control=match)
        control = bench.circuit(found, seed=1)
        assert not set(control) & set(circuit)
        assert {layer: len(mine) for layer, mine in control.by_layer().items()} == {
            layer: len(mine) for layer, mine in circuit.by_layer().items()
        }
        assert set(bench.circuit(found, seed=2)) != set(control)


def test_strongreject_asks_the_judge_and_omits_answers_without_a_score(
    mirror, tmp_path, judge_server, monkeypatch
):
    from judge_server import completion, verdict

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    judge_server.script = lambda pair: (
        completion("nonsense") if "number 3" in pair["request"] else verdict(0, 5, 5)
    )
    config = write_settings(tmp_path / "judged.toml", "Llama-3.2-1B")
    config.write_text(
        config.read_text() + f'\n[judge]\nmodel = "j"\nbase_url = "{judge_server.url}"\n'
    )
    assert reproduce("strongreject", config, mirror, tmp_path / "out") == 0
    rows = json.loads((tmp_path / "out" / "strongreject.json").read_text())["rows"]
    score = next(row["ours"] for row in rows if row["quantity"] == "score after")
    assert (score["value"], score["n"], score["missing"]) == (1.0, 2, 1)


def test_a_model_of_ones_own_needs_no_file(mirror, tmp_path):
    code = reproduce(
        "table8", "smoke", mirror, tmp_path / "out",
        "--model", "tiny/qwen2-Instruct", "--base", "tiny/qwen2",
    )  # fmt: skip
    assert code == 0
    rows = json.loads((tmp_path / "out" / "table8.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"qwen2"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9", "--config", "smoke"], "there is no experiment 'table9'; there are table1"),
        (["table1"], "give --model, or a --config with models"),
        (["table1", "--base", "tiny/llama"], "--base tiny/llama needs its instruct model"),
        (["table7", "--model", "tiny/llama-Instruct"], "table7 cannot be run: no base model"),
        (["strongreject", "--config", "smoke"], "strongreject cannot be run: no judge"),
        (["table1", "--config", "smoke", "--sign", "posit"], "did you mean 'positive'"),
        (["table1", "--model", "x", "--dtype", "float61"], "did you mean 'float16'"),
        (
            ["table1", "--config", "smoke", "--ray", "local", "--device", "cuda:1"],
            "Ray chooses which",
        ),
    ],
)
def test_a_mistake_is_one_message(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        experiments.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_from_a_checkout_the_command_runs_the_experiments(capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", "table9", "--config", "smoke"])
    assert ended.value.code == 2
    assert "cna-lens: there is no experiment 'table9'; there are table1" in capfd.readouterr().err


def test_an_interrupt_of_the_command_waits_for_the_experiments(monkeypatch):
    waited = []

    class Interrupted:
        def __init__(self, command):
            assert command == [sys.executable, "-m", "experiments", "table1", "--limit", "3"]

        def wait(self):
            waited.append(self)
            if len(waited) == 1:
                raise KeyboardInterrupt
            return 130

    monkeypatch.setattr(forwarding.subprocess, "Popen", Interrupted)
    assert forwarding.run(["table1", "--limit", "3"]) == 130
    assert len(waited) == 2


def test_without_a_checkout_the_command_names_the_place_of_the_experiments(tmp_path, monkeypatch):
    monkeypatch.setattr(forwarding, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CnaLensError, match="is no checkout of it; run the command in the folder"):
        forwarding.run(["table1"])
