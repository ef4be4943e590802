"""Run the core of the tests with some versions, and write the result to docs/compatibility.md.

    python -m experiments.compatibility oldest

The core runs in the environment of this process. Its result is kept in
experiments/results/compatibility.jsonl, in place of the last such run on the same Python and
platform. `make test-oldest`, `make test-locked` and `make test-newest` build the environments.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "experiments" / "results" / "compatibility.jsonl"
PAGE = ROOT / "docs" / "compatibility.md"
JUNIT = ROOT / "out" / "compatibility.xml"
BEGIN = "<!-- The tables below are written by `python -m experiments.compatibility`. -->"
END = "<!-- End of the tables. -->"
SETS = ("oldest", "locked", "newest")
# pytest's exit codes for a run that came to its end: all tests passed, some failed.
FINISHED = (0, 1)
LONGEST_REASON = 160


@dataclass(frozen=True)
class Run:
    """One run of the core.

    Args:
        versions: which set of versions, one of `SETS`.
        date: the day in UTC.
        python: the version of Python.
        system: operating system and processor.
        gigabytes: the size of the environment, in 10^9 bytes.
        packages: the version of each declared dependency.
        passed: how many tests passed.
        failures: for each file with failures, how many and how the first one failed.
    """

    versions: str
    date: str
    python: str
    system: str
    gigabytes: float
    packages: Mapping[str, str]
    passed: int
    failures: Mapping[str, str]

    @property
    def place(self) -> tuple[int, str, str]:
        """The set, Python and system of the run; a new run replaces an old one of the same."""
        minor = ".".join(f"{int(part):02}" for part in self.python.split(".")[:2])
        return SETS.index(self.versions), minor, self.system


def declared() -> list[Requirement]:
    """The requirements of cna-lens, without its extras."""
    every = [Requirement(text) for text in requires("cna-lens") or ()]
    return [requirement for requirement in every if not requirement.marker]


def bounded() -> list[str]:
    """The dependencies with an upper bound."""
    return [
        requirement.name
        for requirement in declared()
        if any(specifier.operator in ("<", "<=", "==", "~=") for specifier in requirement.specifier)
    ]


def tested(versions: str) -> tuple[Run, int]:
    """Run the core in this environment; also returns pytest's exit code."""
    JUNIT.parent.mkdir(parents=True, exist_ok=True)
    JUNIT.unlink(missing_ok=True)
    options = ["--numprocesses=logical", "--maxprocesses=4", "--continue-on-collection-errors"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "core", *options, f"--junitxml={JUNIT}"],
        cwd=ROOT,
        check=False,
    )
    if ended.returncode in FINISHED:
        passed, failures = outcome(JUNIT.read_text())
    else:
        passed, failures = 0, {"tests": f"pytest stopped with exit code {ended.returncode}"}
    run = Run(
        versions=versions,
        date=datetime.now(UTC).date().isoformat(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        gigabytes=round(_size(Path(sys.prefix)) / 1e9, 1),
        packages={requirement.name: _version(requirement.name) for requirement in declared()},
        passed=passed,
        failures=failures,
    )
    return run, ended.returncode


def outcome(junit: str) -> tuple[int, dict[str, str]]:
    """The number of passed tests, and the failures of each file, from JUnit's XML by pytest."""
    passed = 0
    reasons: dict[str, list[str]] = {}
    for case in ET.fromstring(junit).iter("testcase"):
        failed = [each for each in case if each.tag in ("failure", "error")]
        if failed:
            module = (case.get("classname") or case.get("name") or "").rpartition(".")[2]
            reasons.setdefault(module, []).append(_first_line(failed[0]))
        elif case.find("skipped") is None:
            passed += 1
    return passed, {
        module: f"{len(found)} failed: {found[0]}" for module, found in sorted(reasons.items())
    }


def tables(runs: Iterable[Run]) -> str:
    """The tables of the page, from the kept runs."""
    ordered = sorted(runs, key=lambda run: run.place)
    rows = [
        ("versions", "Python", "platform", "torch", "environment", "date", "passed", "failed"),
        *(_row(run) for run in ordered),
    ]
    return "\n".join([_table(rows), *_failures(ordered), _table(list(_versions(ordered)))])


def read() -> list[Run]:
    """The kept runs."""
    return [Run(**json.loads(line)) for line in RUNS.read_text().splitlines()]


def keep(run: Run) -> None:
    """Put a run in its place, and rewrite the page's tables."""
    others = [other for other in read() if other.place != run.place] if RUNS.exists() else []
    runs = sorted([*others, run], key=lambda each: each.place)
    RUNS.write_text("".join(f"{json.dumps(asdict(each))}\n" for each in runs))
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(runs)}\n{END}{rest.partition(END)[2]}")


def _first_line(failed: ET.Element) -> str:
    said = " ".join((failed.get("message") or failed.text or "").split())
    return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]} ..."


def _version(name: str) -> str:
    if name == "torch":
        import torch

        return torch.__version__  # names the build, which the package's metadata does not
    return version(name)


def _size(folder: Path) -> int:
    return sum(
        (Path(parent) / name).lstat().st_size
        for parent, _, names in os.walk(folder)
        for name in names
    )


def _row(run: Run) -> tuple[str, ...]:
    failed = sum(int(said.partition(" ")[0]) for said in run.failures.values() if said[0].isdigit())
    return (
        run.versions,
        run.python,
        run.system,
        run.packages["torch"],
        f"{run.gigabytes} GB",
        run.date,
        str(run.passed),
        str(failed) if failed or not run.failures else "all",
    )


def _failures(runs: Iterable[Run]) -> Iterator[str]:
    for run in runs:
        if run.failures:
            lines = [f"- `{module}`: {said}\n" for module, said in run.failures.items()]
            yield f"What failed with {run.versions} on Python {run.python}:\n\n{''.join(lines)}"


def _versions(runs: list[Run]) -> Iterator[tuple[str, ...]]:
    """One row for each package, with its versions in the last run of each set."""
    last = {run.versions: run for run in runs}
    yield ("package", *last)
    for name in sorted({name for run in last.values() for name in run.packages}):
        yield (name, *(run.packages.get(name, "") for run in last.values()))


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argument: str) -> int:
    """Run the core and keep its result; `bounded` lists the packages with an upper bound."""
    if argument == "bounded":
        sys.stdout.write(f"{' '.join(bounded())}\n")
        return 0
    if argument not in SETS:
        sys.stderr.write(f"{argument!r}, expected one of {', '.join((*SETS, 'bounded'))}\n")
        return 2
    run, exit_code = tested(argument)
    keep(run)
    return exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
