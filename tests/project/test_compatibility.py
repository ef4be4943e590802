"""The constraint files pin versions that pyproject.toml allows, and the page says what was run."""

import json
import tomllib
from dataclasses import asdict, replace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pages import DOCS, ROOT

from experiments import compatibility
from experiments.compatibility import Run, outcome, tables

CONSTRAINTS = ROOT / ".constraints"
# Each file, and the extras that are installed with it.
PINNED = {
    "transformer-lens-4.txt": ("dev",),
    "transformer-lens-3.txt": ("dev", "sae"),
    "oldest.txt": ("test",),
}
PYTHONS = ("3.11", "3.12", "3.13")
RUN = Run(
    "locked",
    "2026-01-02",
    "3.11.7",
    "Linux x86_64",
    2.7,
    {"torch": "2.13.0+cpu", "transformers": "5.24.0"},
    12,
    {},
)
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_circuit" name="test_a"/>
<testcase classname="tests.test_circuit" name="test_b"><skipped/></testcase>
<testcase classname="tests.test_ranking" name="test_c[1]"><failure message="A: no&#10; more">x</failure></testcase>
<testcase classname="tests.test_ranking" name="test_c[2]"><failure message="B">x</failure></testcase>
<testcase classname="" name="tests.test_top"><error message="collection failure">x</error></testcase>
</testsuite></testsuites>"""  # noqa: E501


def lines(file):
    return [line for line in (CONSTRAINTS / file).read_text().splitlines() if line[:1] != "#"]


def pins(file):
    """Each package of a constraint file, and its pins with the environments they are for."""
    found = {}
    for requirement in map(Requirement, lines(file)):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def declared(extras):
    """The requirements of pyproject.toml with these extras, and with the extras they name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo, seen = [*map(Requirement, project["dependencies"])], set(extras)
    extras = list(extras)
    while extras:
        for requirement in map(Requirement, project["optional-dependencies"][extras.pop()]):
            if requirement.name == project["name"]:
                extras += requirement.extras - seen
                seen |= requirement.extras
            else:
                todo.append(requirement)
    return todo


def pinned(requirement, file, python):
    """The one version of a package that a file pins for this Python on Linux."""
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    (pin,) = [
        pin
        for pin in pins(file)[canonicalize_name(requirement.name)]
        if pin.marker is None or pin.marker.evaluate(here)
    ]
    (specifier,) = pin.specifier
    return specifier.version


@pytest.mark.parametrize("file", PINNED)
def test_every_line_of_a_constraint_file_pins_one_version_and_names_no_address(file):
    assert len(lines(file)) > 50
    for requirement in map(Requirement, lines(file)):
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        assert "*" not in specifier.version
        assert requirement.url is None


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", PINNED)
def test_what_is_pinned_is_in_the_declared_range(file, python):
    """If this fails, run `make lock`: it renews the constraint files."""
    for requirement in declared(PINNED[file]):
        version = pinned(requirement, file, python)
        assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


def test_the_oldest_versions_are_the_lower_bounds():
    """If this fails, run `make lock`: it renews the constraint files."""
    for requirement in declared(["test"]):
        (lower,) = [each.version for each in requirement.specifier if each.operator == ">="]
        version = pinned(requirement, "oldest.txt", "3.11")
        assert Requirement(f"x=={lower}").specifier.contains(version), (requirement, version)


def test_what_is_held_is_pinned():
    for requirement in map(Requirement, lines("held.txt")):
        for file in ("transformer-lens-4.txt", "transformer-lens-3.txt"):
            assert requirement.specifier.contains(pinned(requirement, file, "3.11"))


def test_the_page_of_compatibility_says_what_was_run():
    """If this fails, run `make test-locked`: it writes the page anew."""
    page = (DOCS / "compatibility.md").read_text()
    _, begin, rest = page.partition(compatibility.BEGIN)
    written, end, _ = rest.partition(compatibility.END)
    assert begin
    assert end
    assert written.strip() == tables(compatibility.read()).strip()


def test_the_outcome_is_what_the_report_counts():
    assert outcome(JUNIT) == (
        1,
        {"test_ranking": "2 failed: A: no more", "test_top": "1 failed: collection failure"},
    )


def test_a_run_takes_the_place_of_the_last_one_on_the_same_python(tmp_path, monkeypatch):
    runs, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    monkeypatch.setattr(compatibility, "RUNS", runs)
    monkeypatch.setattr(compatibility, "PAGE", page)
    page.write_text(f"before\n{compatibility.BEGIN}\nold\n{compatibility.END}\nafter\n")
    newer = replace(RUN, python="3.11.9", passed=13)
    other = replace(RUN, python="3.9.1", versions="oldest", failures={"test_top": "2 failed: no"})
    for run in (RUN, other, newer):
        compatibility.keep(run)
    assert compatibility.read() == [other, newer]
    assert [json.loads(line) for line in runs.read_text().splitlines()] == [
        asdict(other),
        asdict(newer),
    ]
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old\n" not in text
    assert "| locked | 3.11.9 | Linux x86_64 | 2.13.0+cpu | 2.7 GB | 2026-01-02 | 13 | 0 |" in text
    assert "| oldest | 3.9.1 | Linux x86_64 | 2.13.0+cpu | 2.7 GB | 2026-01-02 | 12 | 2 |" in text
    assert "- `test_top`: 2 failed: no\n" in text


def test_an_upper_bound_is_found(monkeypatch):
    asked = ["a>=1", "b>=1,<2", "c==1; extra == 'dev'", "d~=1.2", "e!=2"]
    monkeypatch.setattr(compatibility, "requires", lambda name: asked)
    assert compatibility.bounded() == ["b", "d"]
