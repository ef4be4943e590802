"""The command line as a user calls it."""

import sys

import pytest

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
        monkeypatch.setattr(load, lambda name, device=None: model)

    return given
