"""The command line as a user calls it."""

import json
import sys

import pytest

import cna_lens
from cna_lens import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `cna-lens` with arguments; return its exit code, its output and its errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["cna-lens", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def loads(monkeypatch):
    """Let commands load a given model, whatever the name."""

    def given(model):
        load = "cna_lens.models.loading.load.load_model"
        monkeypatch.setattr(load, lambda name, **_: model)

    return given


@pytest.fixture(scope="module")
def model(folder):
    return cna_lens.load_model(folder, device="cpu")


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "positive.txt").write_text("w5 w6 w7\nw8 w9\n")
    (tmp_path / "negative.csv").write_text("goal,kind\nw20 w21,a\nw22 w23 w24,b\n")
    return tmp_path / "positive.txt", f"{tmp_path / 'negative.csv'}?column=goal"


@pytest.fixture
def found(run, folder, prompts, tmp_path):
    out = tmp_path / "circuit.json"
    positive, negative = prompts
    code, output, _ = run(
        "find", "--model", folder, "--positive", positive, "--negative", negative,
        "--out", out, "--k", 3, "--device", "cpu", "--json",
    )  # fmt: skip
    assert code == 0
    return out, json.loads(output)


@pytest.fixture
def evaluate(run, found, folder, prompts, tmp_path):
    def call(*arguments):
        return run(
            "evaluate", "--model", folder, "--prompts", prompts[0], "--out", tmp_path / "out",
            "--max-new-tokens", 8, "--device", "cpu", *arguments,
        )  # fmt: skip

    return call
