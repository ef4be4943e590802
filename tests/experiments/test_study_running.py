"""Killed, interrupted and repeated runs: no cell is lost, none is measured twice."""

import json
import os
import random
import select
import time
from collections import Counter

import pytest
import runs
from processes import child

from cna_lens import InputError
from cna_lens.results import Journal
from experiments.study.cells import Cell
from experiments.study.running import locked, run_cells

CELLS = [Cell("answers", f"model-{i % 2}", "float32", block=i) for i in range(24)]


class Fake:
    """Measures a cell by its number, after a moment."""

    def __init__(self, cell, pause=0.0):
        self.weights_sha256 = f"weights of {cell.model}"
        self.pause = pause

    def measure(self, cell):
        time.sleep(self.pause)
        return {"square": cell.block**2, "padding": "x" * 20_000}


class Reporting(Journal):
    """Writes each key into a pipe after the journal has put it on the disk."""

    pipe = None

    def add(self, key, record):
        super().add(key, record)
        os.write(self.pipe, f"{key}\n".encode())


def run(path, load=Fake, journal=None):
    # A journal without records is false.
    journal = Journal(path, "study", {}) if journal is None else journal
    return run_cells(CELLS, journal, load, config_sha256="c", progress=False)


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


@pytest.mark.parametrize("seed", runs.every(range(6), quick=("0", "1")))
def test_a_run_killed_again_and_again_at_random_moments_loses_nothing(tmp_path, seed):
    path = tmp_path / "records.jsonl"
    draw = random.Random(seed)
    promised = []
    for is_last in (False, False, False, True):
        reading, writing = os.pipe()

        def work(writing=writing):
            journal = Reporting(path, "study", {})
            journal.pipe = writing
            run(path, lambda cell: Fake(cell, pause=0.002), journal)

        with child(work):
            os.close(writing)
            # On a busy machine none of the moments may be late enough for a record.
            if is_last and not promised:
                assert select.select([reading], [], [], 30)[0]
            time.sleep(draw.uniform(0, 0.04))
        promised += os.read(reading, 1 << 16).decode().split()
        os.close(reading)
        kept = [record["key"] for record in records_left(path)]
        assert set(promised) <= set(kept)
    assert promised
    run(path)
    found = records(path)
    assert Counter(record["key"] for record in found) == Counter(cell.key for cell in CELLS)
    squares = {cell.key: cell.block**2 for cell in CELLS}
    assert all(record["values"]["square"] == squares[record["key"]] for record in found)


def records_left(path):
    """The complete lines of a file that may end in an incomplete one."""
    whole, _, _ = path.read_text().rpartition("\n") if path.exists() else ("", "", "")
    return [json.loads(line) for line in whole.split("\n")[1:]]


def test_a_finished_run_measures_nothing_and_loads_nothing(tmp_path):
    path = tmp_path / "records.jsonl"
    assert run(path) == len(CELLS)

    def load(cell):
        raise AssertionError("loaded")

    assert run(path, load) == 0


def test_each_model_is_loaded_once_and_freed_before_the_next(tmp_path):
    loaded = []

    def load(cell):
        loaded.append(cell.model)
        return Fake(cell)

    run(tmp_path / "records.jsonl", load)
    assert loaded == ["model-0", "model-1"]


def test_a_cell_that_two_experiments_need_is_measured_once(tmp_path):
    journal = Journal(tmp_path / "records.jsonl", "study", {})
    assert run_cells([*CELLS, *CELLS], journal, Fake, config_sha256="c", progress=False) == 24


def test_an_interrupt_keeps_finished_cells(tmp_path):
    path = tmp_path / "records.jsonl"

    class Interrupted(Fake):
        def measure(self, cell):
            if cell.block == 9:
                raise KeyboardInterrupt
            return super().measure(cell)

    with pytest.raises(KeyboardInterrupt):
        run(path, Interrupted)
    # Model by model: the even ones were finished before.
    finished = [*range(0, 24, 2), 1, 3, 5, 7]
    assert [record["cell"]["block"] for record in records(path)] == finished
    assert run(path) == 8


def test_every_record_has_its_provenance(tmp_path):
    path = tmp_path / "records.jsonl"
    run(path)
    provenance = records(path)[0]["provenance"]
    assert provenance["config_sha256"] == "c"
    assert provenance["weights_sha256"] == "weights of model-0"
    assert {"versions", "seed", "device", "seconds", "finished"} <= set(provenance)


def test_a_model_whose_weights_changed_is_refused(tmp_path):
    path = tmp_path / "records.jsonl"
    journal = Journal(path, "study", {})
    run_cells(CELLS[:6], journal, Fake, config_sha256="c", progress=False)

    class Changed(Fake):
        def __init__(self, cell):
            super().__init__(cell)
            self.weights_sha256 = "others"

    with pytest.raises(InputError, match="the weights of model-0 are others"):
        run(path, Changed)
    assert len(records(path)) == 6


def test_a_folder_belongs_to_one_process_until_that_process_ends_in_any_way(tmp_path):
    reading, writing = os.pipe()

    def hold():
        with locked(tmp_path):
            os.write(writing, b"!")
            time.sleep(60)

    with child(hold):
        os.close(writing)
        assert select.select([reading], [], [], 30)[0]
        assert os.read(reading, 1) == b"!"
        with pytest.raises(InputError, match="another process works in"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass
    os.close(reading)


def test_cells_that_differ_in_any_field_have_different_keys():
    cell = CELLS[0]
    others = [
        Cell(cell.measure, cell.model, "bfloat16"),
        Cell(cell.measure, cell.model, cell.dtype, strength=0.5),
        Cell(cell.measure, cell.model, cell.dtype, seed=1),
        Cell(cell.measure, cell.model, cell.dtype, prompts_sha256="a"),
        Cell("log_odds", cell.model, cell.dtype),
    ]
    assert len({cell.key, *(other.key for other in others)}) == 6
