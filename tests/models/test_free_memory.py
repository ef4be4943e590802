"""The free memory of a machine, and of a container with a limit."""

from types import SimpleNamespace

import psutil
import pytest

from cna_lens.models import free_memory as module
from cna_lens.models.free_memory import free_memory


@pytest.fixture
def container(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CGROUP", tmp_path)

    def limited(limit, anon):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.stat").write_text(f"file 999\nanon {anon}\nanon_thp 7\n")

    return limited


def test_without_a_limit_it_is_that_of_the_machine(container, monkeypatch):
    machine = SimpleNamespace(available=12_345, free=678, total=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert free_memory() == 12_345
    container("max", 5)
    assert free_memory() == 12_345


def test_a_limit_leaves_what_is_not_taken(container):
    container(1000, 300)
    assert free_memory() == 700
    container(1000, 3000)
    assert free_memory() == 0
    container(2**60, 0)
    assert free_memory() < 2**60
