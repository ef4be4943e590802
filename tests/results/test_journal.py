"""The file that interrupted work goes on from, cut off at every byte."""

import json

import pytest

from cna_lens import InputError
from cna_lens.results import Journal

DEPENDS_ON = {"model": "m", "limit": 3}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "records.jsonl"


def reopened(path, **changes):
    return Journal(path, "study", DEPENDS_ON | changes)


def test_a_journal_opened_again_has_the_records_that_were_added(path):
    journal = reopened(path)
    journal.add("a", {"value": 1})
    journal.add("b", {"value": [None, 0.5]})
    assert dict(journal) == dict(reopened(path)) == {"a": {"value": 1}, "b": {"value": [None, 0.5]}}


def test_a_file_cut_off_at_any_byte_keeps_every_whole_line_and_continues(path):
    journal = reopened(path)
    for key in "abc":
        journal.add(key, {"value": key * 5})
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        whole = [json.loads(line)["key"] for line in content[:cut].split(b"\n")[1:-1]]
        journal = reopened(path)
        assert list(journal) == whole
        for key in "abc"[len(whole) :]:
            journal.add(key, {"value": key * 5})
        assert path.read_bytes().splitlines(keepends=True) == lines


def test_work_that_depends_on_less_is_other_work(path):
    reopened(path, seed=0).add("a", {"value": 1})
    with pytest.raises(InputError, match="holds a study with seed 0, this one has None"):
        reopened(path)


def test_a_record_cannot_have_the_journals_own_entry(path):
    journal = reopened(path)
    with pytest.raises(InputError, match="entry \"key\", 'b'"):
        journal.add("a", {"key": "b"})
    assert not journal
    assert not reopened(path)


@pytest.mark.parametrize("changes", [{"limit": 4}, {"seed": 0}])
def test_other_work_is_refused_and_the_file_stays_unchanged(path, changes):
    reopened(path).add("a", {"value": 1})
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"holds a study with {next(iter(changes))}"):
        reopened(path, **changes)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["w5\n", "w5", '{"comparison": {}}\n', "[]\n"])
def test_another_file_is_refused_and_stays_unchanged(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(InputError, match="is not a file of a study"):
        reopened(path)
    assert path.read_text() == content


@pytest.mark.parametrize("line", ['{"value": 1}', "not JSON", "[1]"])
def test_a_foreign_line_in_the_middle_is_named(path, line):
    reopened(path).add("a", {"value": 1})
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=r"line 3 of .* is not a record of a study"):
        reopened(path)


def test_without_a_path_nothing_is_written(tmp_path):
    journal = Journal(None, "study", DEPENDS_ON)
    journal.add("a", {"value": 1})
    assert journal["a"] == {"value": 1}
    assert list(tmp_path.iterdir()) == []
