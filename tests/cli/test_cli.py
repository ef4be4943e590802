"""The command line, as a user calls it, on a small model in a local folder."""

import html
import io
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib import metadata
from unittest.mock import Mock

import pytest
import tiny
import torch
from scaled import ASKED, answers_of

import cna_lens
from cna_lens import Circuit, cli, steer
from cna_lens.cli import demo as demo_command
from cna_lens.cli.options import check_folder
from cna_lens.models import encode


def test_find_writes_the_circuit_that_the_library_finds(found, model):
    path, printed = found
    expected = cna_lens.find_circuit(
        model, ["w5 w6 w7", "w8 w9"], ["w20 w21", "w22 w23 w24"],
        k=3, hash_weights=True, progress=False,
    )  # fmt: skip
    assert Circuit.load(path) == expected
    assert [(n["layer"], n["index"]) for n in printed["neurons"]] == list(expected)
    assert printed["provenance"]["weights_sha256"] == cna_lens.weights_hash(model)


@pytest.fixture
def find(run, folder, prompts, tmp_path):
    """Run `find`, and return its exit code, its errors and the circuit that it writes."""

    def call(*arguments, positive=prompts[0], negative=prompts[1]):
        out = tmp_path / "of.json"
        out.unlink(missing_ok=True)
        code, _, errors = run(
            "find", "--model", folder, "--positive", positive, "--negative", negative,
            "--out", out, "--device", "cpu", *arguments,
        )  # fmt: skip
        return code, " ".join(errors.split()), Circuit.load(out) if out.exists() else None

    return call


OWN = """
from dataclasses import dataclass
from cna_lens import Ranking

@dataclass(frozen=True)
class Variance(Ranking):
    name = "variance"
    needs = "statistics"

    def score(self, collected):
        return collected.scored(self, collected.positive.variance)
"""


@pytest.mark.parametrize(
    ("options", "same"),
    [
        (["--rank", "standardized"], {"rank": "standardized"}),
        (["--rank", "relp", "--sign", "positive"], {"rank": "relp", "sign": "positive"}),
        (["--layers", "1"], {"layers": [1]}),
        (["--layers", "0-1", "--max-per-layer", "2"], {"layers": [0, 1], "max_per_layer": 2}),
        (["--position", "-2"], {"position": -2}),
        (["--universal-filter", "after"], {"universal_filter": "after"}),
        (["--no-universal", "--batch-size", "1"], {"universal": None, "batch_size": 1}),
        (["--no-chat"], {"chat": False}),
    ],
)
def test_find_does_what_python_does(find, model, options, same):
    code, _, circuit = find("--k", 3, *options)
    assert code == 0
    expected = cna_lens.find_circuit(
        model, ["w5 w6 w7", "w8 w9"], ["w20 w21", "w22 w23 w24"],
        k=3, hash_weights=True, progress=False, **same,
    )  # fmt: skip
    assert circuit == expected


def test_find_takes_a_ranking_of_ones_own_and_another_precision(find, folder, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    code, _, circuit = find(
        "--k", 3, "--rank", f"{tmp_path / 'mine.py'}:Variance", "--dtype", "bfloat16"
    )
    assert code == 0
    assert circuit.provenance.rank == "variance"
    half = cna_lens.load_model(folder, device="cpu", dtype=torch.bfloat16)
    assert circuit.provenance.weights_sha256 == cna_lens.weights_hash(half)


def test_find_reads_one_set_from_standard_input(find, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("w5 w6 w7\nw8 w9\n"))
    code, _, circuit = find("--k", 3, positive="-")
    assert code == 0
    assert circuit == find("--k", 3)[2]
    code, errors, _ = find("--k", 3, positive="-", negative="-")
    assert code == 2
    assert "both sets come from standard input" in errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "circuit.json"], "--out is circuit.json, which exists"),
        (["--out", "folder"], "--out is folder, which is a folder"),
        (["--out", "circuit.json/of.json"], "--out is in circuit.json, which is a file"),
        (["--layers", "3-1"], "--layers is '3-1', expected numbers and ranges"),
        (["--layers", "x"], "--layers is 'x'"),
        (["--rank", "luck"], "luck"),
        (["--rank", "nowhere.py:Mine"], "nowhere.py does not exist"),
    ],
)
def test_what_find_cannot_do_is_refused_before_a_model_is_loaded(
    find, monkeypatch, tmp_path, options, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "circuit.json").write_text("kept")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr(
        "cna_lens.models.loading.load.load_model", lambda *_, **__: pytest.fail("it was loaded")
    )
    code, errors, _ = find("--k", 3, *options)
    assert code == 2
    assert said in errors
    assert (tmp_path / "circuit.json").read_text() == "kept"


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    # The superuser may write anywhere, so that a closed folder would not do.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(cna_lens.InputError, match=f"in {tmp_path}, where you may not write"):
        check_folder(tmp_path / "new" / "inside")


@pytest.mark.parametrize("device", ["cuda:99", "cuad", "mps:5"])
def test_a_device_that_is_not_here_is_refused_before_a_model_is_loaded(find, device, monkeypatch):
    monkeypatch.setattr(
        "cna_lens.models.loading.load._read_folder", lambda *_, **__: pytest.fail("it was read")
    )
    code, errors, _ = find("--k", 3, "--device", device)
    assert code == 2
    assert f"device is '{device}', which torch cannot use here" in errors


def test_the_version_is_that_of_the_package(run):
    code, output, _ = run("--version")
    assert code == 0
    assert f"cna-lens {cna_lens.__version__}" in output.splitlines()
    assert f"torch {torch.__version__}" in output.splitlines()
    assert cna_lens.__version__ == metadata.version("cna-lens")


TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}{{ style }}"
IN_TEMPLATE = ("--system", "w30", "--template-option", "style=w31")


@pytest.fixture
def asked(loads):
    """The settings that the options name, on a model whose template reads them."""
    model = tiny.bridge("llama", chat=True)
    model.tokenizer.chat_template = TEMPLATE
    loads(model)
    return model, {"chat": cna_lens.ChatSettings(system="w30", options={"style": "w31"})}


def test_find_reads_prompts_in_the_template_that_is_asked_for(run, asked, prompts, tmp_path):
    model, chat = asked
    positive, negative = prompts
    find = ["find", "--model", "tiny", "--positive", positive, "--negative", negative]
    out = tmp_path / "circuit.json"
    code, _, error = run(*find, "--out", out, "--k", 3, "--position", -2, *IN_TEMPLATE)
    assert code == 0, error
    assert Circuit.load(out) == cna_lens.find_circuit(
        model, ["w5 w6 w7", "w8 w9"], ["w20 w21", "w22 w23 w24"],
        k=3, position=-2, hash_weights=True, progress=False, **chat,
    )  # fmt: skip
    code, _, error = run(*find, "--out", tmp_path / "other.json", "--position", "answer")
    assert code == 2
    assert "does not reason about any" in error


def test_answers_are_to_prompts_in_the_template_that_is_asked_for(run, asked, prompts, tmp_path):
    model, chat = asked
    path = tmp_path / "circuit.json"
    cna_lens.find_circuit(
        model, ["w5"], ["w6"], k=3, universal=None, progress=False, hash_weights=True
    ).save(path)
    answer = ["--model", "tiny", "--max-new-tokens", 6, *IN_TEMPLATE, "--json"]
    _, output, _ = run("steer", *answer, "--circuit", path, "w5 w6")
    (expected,) = cna_lens.generate(model, ["w5 w6"], max_new_tokens=6, **chat)
    assert json.loads(output)["answers"][0]["unsteered"] == expected
    out = tmp_path / "out"
    run("evaluate", *answer, "--prompts", prompts[0], "--out", out)
    (labels,) = cna_lens.metrics.load_labels(out / "labels.jsonl")
    texts = ["w5 w6 w7", "w8 w9"]
    assert labels.evaluation == cna_lens.metrics.evaluate(model, texts, max_new_tokens=6, **chat)
    saved = json.loads((out / "run.json").read_text())
    assert "--system w30 --template-option style=w31" in saved["command"]
    assert saved["prompts"]["given"]["sha256"] == encode(model, texts, **chat).record.sha256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template-option", "style"], "--template-option is 'style', expected NAME=VALUE"),
        (["--template-option", "=1"], "--template-option is '=1', expected NAME=VALUE"),
        (["--template-option", "messages=1"], "options holds 'messages'"),
        (["--position", "end"], "--position is 'end', expected an index"),
        (["--no-chat", "--system", "w5"], "--no-chat leaves out the chat template"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(run, asked, prompts, tmp_path, options, message):
    find = ["find", "--model", "tiny", "--positive", prompts[0], "--negative", prompts[1]]
    code, _, error = run(*find, "--out", tmp_path / "circuit.json", *options)
    assert code == 2
    assert message in " ".join(error.split())


def test_show_fits_into_80_columns_and_names_the_strongest_neuron_model_and_size(run, found):
    path, printed = found
    code, output, _ = run("show", path)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    strongest = printed["neurons"][0]
    row = next(line for line in output.splitlines() if line.startswith("│    1 "))
    assert row.split()[3:6:2] == [str(strongest["layer"]), str(strongest["index"])]
    assert "tiny-checkpoint" in output
    assert "3 of 48 neurons" in output


def test_show_prints_the_circuit_as_json(run, found):
    path, printed = found
    _, output, _ = run("show", path, "--json")
    assert json.loads(output) == {k: v for k, v in printed.items() if k != "file"}


def test_steer_answers_without_and_with_the_circuit(run, found, folder, model):
    path, _ = found
    code, output, _ = run(
        "steer", "--model", folder, "--circuit", path, "--multiplier", -20, "--device", "cpu",
        "--max-new-tokens", 8, "--json", "w30 w31",
    )  # fmt: skip
    assert code == 0
    (unsteered,) = answers_of(model, ["w30 w31"])
    (steered,) = answers_of(model, ["w30 w31"], path)
    assert unsteered != steered
    assert json.loads(output) == {
        "multiplier": -20.0,
        "answers": [{"prompt": "w30 w31", "unsteered": unsteered, "steered": steered}],
    }


def test_steer_takes_positions_and_samples(run, found, folder, model):
    path, _ = found
    arguments = ["steer", "--model", folder, "--circuit", path, "--multiplier", -20, "--json"]
    arguments += ["--device", "cpu", "--max-new-tokens", 8, "w30 w31"]
    sampled = ["--temperature", 1, "--top-p", 0.9, "--seed", 5]
    _, output, _ = run(*arguments, "--positions", "last_prompt", *sampled)
    options = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 0.9, "seed": 5}
    with steer(model, Circuit.load(path), -20.0, positions="last_prompt"):
        (steered,) = cna_lens.generate(model, ["w30 w31"], **options)
    (unsteered,) = cna_lens.generate(model, ["w30 w31"], **options)
    (answers,) = json.loads(output)["answers"]
    assert (answers["unsteered"], answers["steered"]) == (unsteered, steered)


def test_markup_in_a_prompt_is_printed_as_text(run, found, folder):
    path, _ = found
    _, output, _ = run("steer", "--model", folder, "--circuit", path, "--max-new-tokens", 1, "[b]")
    assert "[b]" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nowhere.json"], "nowhere.json does not exist"),
        (["find", "--fraction", "0"], "fraction is 0.0"),
        (["find", "--sign", "both"], "'both' is not one of 'abs'"),
        (["find", "--positive", "nowhere.txt"], "nowhere.txt does not exist"),
        (["find", "--positive", "a.csv?colum=x"], "unknown setting 'colum'"),
        (["find", "--positive", "a.csv?column="], "has 'column' without a value"),
        (["find", "--positive", "a.csv?goal"], "unknown setting 'goal'"),
        (["find", "--model", "nowhere.gguf"], "nowhere.gguf does not exist"),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(
    run, folder, prompts, tmp_path, arguments, message
):
    command, *given = arguments
    if command == "find":
        positive, negative = prompts
        options = {
            "--model": folder, "--positive": positive, "--negative": negative,
            "--out": tmp_path / "out.json", "--device": "cpu",
        }  # fmt: skip
        options |= dict(zip(given[::2], given[1::2], strict=True))
        given = [each for pair in options.items() for each in pair]
    code, output, errors = run(command, *given)
    assert (code, output) == (2, "")
    assert message in " ".join(errors.split())
    assert "Traceback" not in errors
    assert not (tmp_path / "out.json").exists()


def test_a_circuit_of_another_model_needs_the_option(run, found, folder, tmp_path):
    path, _ = found
    other = Circuit.load(path).with_provenance(model="another-model")
    other.save(tmp_path / "other.json")
    arguments = ["steer", "--model", folder, "--circuit", tmp_path / "other.json", "w5"]
    code, _, errors = run(*arguments)
    assert code == 2
    assert "another-model" in errors
    code, _, _ = run(*arguments, "--allow-other-model", "--max-new-tokens", 1)
    assert code == 0


def test_a_report_of_a_folder_has_the_command_and_leaves_texts_out(
    evaluate, run, found, folder, model, prompts, tmp_path
):
    path, _ = found
    assert evaluate("--circuit", path, "--multiplier", -20, "--keep-text")[0] == 0
    page = tmp_path / "report.html"
    code, output, _ = run("report", tmp_path / "out", path, "--out", page, "--title", "<mine>")
    assert code == 0
    assert str(page) in output
    assert "answers-unsteered.jsonl: it holds the full text" in " ".join(output.split())
    shown = html.unescape(page.read_text())
    assert "<mine>" in shown
    assert (
        f"cna-lens evaluate --model {folder} --prompts {prompts[0]} --out {tmp_path / 'out'} "
        f"--circuit {path} --multiplier -20.0 --positions all --max-new-tokens 8 --temperature 0.0 "
        "--top-p 1.0 --seed 0 --samples 1 --dtype float32 --device cpu --keep-text"
    ) in shown
    answers = [*answers_of(model, ASKED), *answers_of(model, ASKED, path)]
    assert not any(answer in shown for answer in answers)


def test_a_report_with_a_model_shows_its_tokens(run, found, folder, prompts, tmp_path):
    path, _ = found
    page = tmp_path / "report.html"
    code, _, _ = run(
        "report", path, "--out", page, "--model", folder, "--prompts", prompts[0],
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert page.read_text().count('data-circuitsvis="') == 2
    other = path.with_name("other.json")
    other.write_bytes(path.read_bytes())
    for arguments, telling in (
        ([path, "--model", folder], "need both --model and --prompts"),
        ([path, other, "--model", folder, "--prompts", prompts[0]], "there are 2 circuits"),
        ([prompts[0]], "is none of circuits"),
        (["nowhere"], "nowhere does not exist"),
    ):
        code, _, errors = run("report", *arguments, "--out", tmp_path / "none.html")
        assert code == 2
        assert telling in errors
    assert not (tmp_path / "none.html").exists()


def test_play_answers_typed_prompts(run, found, folder, model, monkeypatch):
    typed = Mock(side_effect=["w5 w6", "/top", EOFError])
    monkeypatch.setattr("prompt_toolkit.PromptSession", lambda: Mock(prompt=typed))
    path, _ = found
    code, output, _ = run(
        "play", "--model", folder, "--circuit", path, "--multiplier", -20, "--device", "cpu",
        "--max-new-tokens", 8,
    )  # fmt: skip
    assert code == 0
    (steered,) = answers_of(model, ["w5 w6"], path)
    assert set(steered.split()) <= set(output.split())
    assert Circuit.load(path).neurons[0].label in output


FEW = {"refusal": 8, "refusal_evaluation": 2}
"""Prompts of each kind in the demo's two sets while it is tested."""
N_TOKENS = 8


def few(name):
    whole = cna_lens.prompt_set(name)
    return replace(
        whole, positive=whole.positive[: FEW[name]], negative=whole.negative[: FEW[name]]
    )


@pytest.mark.long
@pytest.mark.real_model
def test_the_demo_prints_its_answer_first_beside_controls_and_keeps_no_text(
    run, tmp_path, monkeypatch, demo
):
    monkeypatch.chdir(tmp_path)
    # `make demo` runs the whole demo.
    monkeypatch.setattr(demo_command, "prompt_set", few)
    monkeypatch.setattr(demo_command, "MAX_NEW_TOKENS", N_TOKENS)
    arguments = "demo", "--model", "demo", "--prompts", 2, "--out", "out", "--device", "cpu"
    code, output, _ = run(*arguments)
    tmp_path = tmp_path / "out"
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    conditions = [
        "unsteered, m = 1",
        "circuit, m = 0",
        "random control, m = 0",
        "RelP circuit, d = -2",
        "random control, d = -2",
    ]
    for condition in conditions:
        assert len(re.findall(f"^{condition} +│", output, re.MULTILINE)) == 2
    assert output.startswith("circuit: 46 of 46080 MLP neurons, ")
    last = output.splitlines()[-2:]
    assert cna_lens.weights_hash(demo)[:16] in last[0]
    assert "transformers " in " ".join(last)
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(label["condition"] for label in labels)) == conditions
    assert len(labels) == 20
    prompts = few("refusal_evaluation")
    asked = [*prompts.positive, *prompts.negative]
    answers = cna_lens.generate(demo, asked, max_new_tokens=N_TOKENS)
    stored = html.unescape("".join(path.read_text() for path in tmp_path.iterdir())) + output
    assert not any(answer[:25] in stored for answer in answers)
    report = (tmp_path / "report.html").read_text()
    assert len(report) < 3e6
    for text in ("What was asked", "Circuit: ", "Answers: ", "Tokens", 'data-circuitsvis="'):
        assert text in report
    assert cna_lens.weights_hash(demo) in report
    assert "cna-lens demo --model demo --prompts 2 --out out --device cpu" in report
    assert [label["refused"] for label in labels[:4]] == list(map(cna_lens.is_refusal, answers))
    assert len(Circuit.load(tmp_path / "circuit.json")) == 46
    relp = Circuit.load(tmp_path / "relp.json")
    assert len(relp) == 461
    assert relp.provenance.rank.startswith("relp(")
    steered = [label["sha256"] for label in labels if label["condition"] == "RelP circuit, d = -2"]
    benign = cna_lens.collect(demo, few("refusal").negative)
    method = cna_lens.deviation_scaling(relp, benign, -2.0, positions="last_prompt")
    with method.at(demo):
        expected = cna_lens.metrics.evaluate(demo, asked, max_new_tokens=N_TOKENS)
    assert steered == [record.sha256 for record in expected.records]


def test_the_demo_runs_in_the_precision_asked_for(run, tmp_path, monkeypatch):
    def loaded(model, device, dtype):
        raise cna_lens.InputError(f"{model} on {device} in {dtype}")

    monkeypatch.setattr(demo_command, "load_quietly", loaded)
    arguments = "demo", "--out", tmp_path, "--device", "cpu", "--dtype", "bfloat16"
    code, _, error = run(*arguments)
    assert code == 2
    assert "demo-refusal on cpu in bfloat16" in error


def test_estimate_prints_the_requirements_of_a_configuration(run, folder):
    arguments = ["estimate", "--model", "a-name", "--config", folder / "config.json"]
    options = ["--dtype", "bfloat16", "--card", 24, "--tflops", 0.001, "--prompts", 10]
    code, output, _ = run(*arguments, *options)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert "a-name, bfloat16" in output
    code, output, _ = run(*arguments, *options, "--json")
    record = json.loads(output)
    needs = cna_lens.requirements(folder, dtype=torch.bfloat16, prompts=10)
    assert (code, record["cards"], record["tflops"]) == (0, 1, 0.001)
    assert record["weights"] == needs.weights
    assert record["discovery"] == needs.discovery
    assert record["seconds"] == pytest.approx(needs.flops / 1e9)


def test_estimate_gives_no_time_for_hardware_that_is_not_here(run, folder):
    def seconds(device):
        arguments = ["estimate", "--model", folder, "--device", device, "--json"]
        return json.loads(run(*arguments)[1])["seconds"]

    assert seconds("cpu") > 0
    if not torch.cuda.is_available():
        assert seconds("cuda") is None


def test_estimate_warns_of_a_model_without_a_cache(run, folder, monkeypatch):
    from transformer_lens.model_bridge.generalized_components import AttentionBridge

    arguments = ["estimate", "--model", "a-name", "--config", folder / "config.json"]
    assert "Slower here" not in run(*arguments)[1]
    monkeypatch.setattr(AttentionBridge, "_update_kv_cache", lambda self, k, v, **_: (k, v))
    said = " ".join(run(*arguments)[1].split())
    assert "Slower here: the cache of LlamaForCausalLM holds 0 tokens" in said


def test_a_warning_is_a_sentence_without_its_line_of_code(capsys, monkeypatch):
    def warn(_):
        warnings.warn("the cache stays empty", cna_lens.CnaLensWarning, stacklevel=1)
        warnings.warn("of another library", UserWarning, stacklevel=1)

    others = []

    def show(message, *_, **__):
        others.append(str(message))

    monkeypatch.setattr("cna_lens.cli.app.app", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", show)
        cli.main([])
        assert warnings.showwarning is show
    assert capsys.readouterr().err == "cna-lens: warning: the cache stays empty\n"
    assert others == ["of another library"]


LOADED = """
import os, sys, cna_lens.cli
try:
    cna_lens.cli.main(sys.argv[1:])
except SystemExit:
    pass
print(sorted({"torch", "transformers"} & set(sys.modules)), os.environ.get("GOMP_SPINCOUNT"))
"""
"""Prints which libraries of models a command loads, and how their threads wait."""


def loaded(*arguments, **environment):
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("arguments", [["--help"], ["find", "--help"], ["audit", "--help"]])
def test_help_loads_no_library_of_models_and_sets_how_threads_wait(arguments):
    assert loaded(*arguments) == f"[] {cli.SPIN_COUNT}"


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "None"),
        pytest.param({"GOMP_SPINCOUNT": "7"}, "7", marks=pytest.mark.long),
    ],
    ids=["policy", "count"],
)
def test_a_users_own_setting_of_waiting_threads_stays(given, spins):
    assert loaded("show", "nowhere.json", **given) == f"['torch'] {spins}"
