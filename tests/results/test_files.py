"""Files of results are standard JSON: a number that is not finite stands there by its name."""

import json
import math
import os
from dataclasses import asdict

import numpy as np
import pytest

import cna_lens
from cna_lens.metrics import AnswerRecord, Evaluation, load_labels
from cna_lens.report.evidences import SavedEvidence
from cna_lens.results import Journal, json_text, read_journal
from cna_lens.results.files import numbers_restored, write_atomically
from cna_lens.results.records import Evidence
from cna_lens.results.rendering import Cell, Table
from cna_lens.results.versioned import VersionedJson

RECORD = {
    "numbers": [1.5, math.inf, -math.inf, (math.inf, 2)],
    "inner": {"kl": np.float64("inf"), "name": "inf", "none": None, "flag": True},
}


def strictly(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_not_finite_return_from_standard_json():
    text = json_text(RECORD)
    read = numbers_restored(strictly(text))
    assert read == json.loads(json.dumps(RECORD))
    assert math.isnan(numbers_restored(strictly(json_text([math.nan])))[0])


def test_finite_numbers_are_written_as_before():
    record = {"b": 0.1, "a": [1, None, "é"], "c": 1e300}
    assert json_text(record) == json.dumps(record, sort_keys=True)
    assert json_text(record, indent=1, sort_keys=False) == json.dumps(record, indent=1)


def test_a_journal_holds_standard_json(tmp_path):
    path = tmp_path / "work.jsonl"
    Journal(path, "work", {"limit": math.inf}).add("Infinity", RECORD)
    for line in path.read_text().splitlines():
        strictly(line)
    expected = json.loads(json.dumps(RECORD))
    assert Journal(path, "work", {"limit": math.inf})["Infinity"] == expected
    assert read_journal(path, "work")[1] == {"Infinity": expected}


class Found(Evidence):
    def record(self):
        return {"value": math.inf}

    def _headline(self):
        return "infinite"

    def _facts(self):
        return []

    def _table(self):
        return Table("numbers", ("n",), ((Cell.of(math.inf),), (Cell.of(math.nan),)))


def test_evidence_is_saved_as_standard_json(tmp_path):
    Found().save(tmp_path / "found.json")
    record = strictly((tmp_path / "found.json").read_text())
    assert record["value"] == "Infinity"
    (first,), (second,) = SavedEvidence.from_record(record).summary.table.rows
    assert first.number == math.inf
    assert math.isnan(second.number)


def test_labels_are_saved_as_standard_json(tmp_path):
    record = AnswerRecord("prompt", False, {"odds": -math.inf}, 3, "hash")
    Evaluation((record,)).save(tmp_path / "labels.jsonl")
    strictly((tmp_path / "labels.jsonl").read_text())
    (answered,) = load_labels(tmp_path / "labels.jsonl")
    assert asdict(answered.evaluation.records[0])["scores"] == {"odds": -math.inf}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_versioned_file_refuses_them(value, tmp_path):
    file = VersionedJson("test", 1, "test", cna_lens.InputError, "make it again")
    with pytest.raises(cna_lens.InputError, match=r"infinite or not a number.*make it again"):
        file.save(tmp_path / "file.json", {"value": value})
    assert not (tmp_path / "file.json").exists()


@pytest.mark.parametrize("checksum", [False, True])
def test_a_versioned_file_holds_numbers_of_numpy_and_refuses_other_objects(checksum, tmp_path):
    file = VersionedJson("test", 1, "test", cna_lens.InputError, "make it again", checksum)
    file.save(tmp_path / "numpy.json", {"k": np.int64(2), "share": np.float32(0.5)})
    file.save(tmp_path / "python.json", {"k": 2, "share": 0.5})
    texts = {(tmp_path / f"{name}.json").read_text() for name in ("numpy", "python")}
    assert len(texts) == 1
    with pytest.raises(cna_lens.InputError, match=r"this test holds what no file holds: .*\{1\}"):
        file.save(tmp_path / "set.json", {"value": {1}})


def test_a_mean_with_infinite_values_has_no_interval():
    assert cna_lens.bootstrap_mean([1.0, math.inf, None]) == cna_lens.Estimate(
        math.inf, None, None, 2, 1
    )
    changes = cna_lens.paired_bootstrap([-math.inf, 1.0], [-math.inf, 2.0])
    assert changes.value == 0.5


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_obeys_the_umask(tmp_path, mask, mode):
    path = tmp_path / "it.json"
    before = os.umask(mask)
    try:
        write_atomically(path, "new")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "it.json"
    path.write_text("old")
    path.chmod(0o600)
    write_atomically(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "it.json"
    path.write_text("old")

    def fail(_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
