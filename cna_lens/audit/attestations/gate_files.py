"""Attestations as files that pipelines read: JUnit for test reports, SARIF for code scanning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Final, Literal
from urllib.parse import quote
from xml.etree import ElementTree

from cna_lens.audit.attestations.answers import AnswersAttestation
from cna_lens.audit.attestations.attestation import EXIT_CODES, Attestation, Check
from cna_lens.audit.attestations.sampled import SampledAttestation
from cna_lens.audit.attestations.served import ServedAttestation
from cna_lens.audit.checks.thresholds import LOST_REFUSALS, OVER_REFUSAL
from cna_lens.audit.identity.identity import IdentityAttestation
from cna_lens.results.files import json_text
from cna_lens.results.provenance import library_versions
from cna_lens.results.rendering.visible import visible

State = Literal["passed", "failed", "undecided"]
OfAnswers = AnswersAttestation | SampledAttestation
Attested = Attestation | OfAnswers | ServedAttestation

_STATES: Final[dict[int, State]] = {0: "passed", 1: "failed", 2: "undecided"}
_LEVELS: Final[dict[State, str]] = {"failed": "error", "undecided": "warning"}
_TOOL = "cna-lens audit"
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True)
class Case:
    """One question of an audit, as a pipeline shows it.

    Attributes:
        name: the name of the check, or "verdict".
        asks: what the case asks, in a sentence.
        state: "failed" speaks of a changed model, "undecided" cannot tell.
        says: the answer, with its numbers.
    """

    name: str
    asks: str
    state: State
    says: str


def cases(found: Attested) -> tuple[Case, ...]:
    """The verdict first, then lineage and each check on which the verdict depends."""
    if isinstance(found, ServedAttestation):
        model, *of_model = cases(found.of_model)
        answers, *of_answers = cases(found.of_answers)
        return (
            _verdict(found, "Are the model and the way to its answers what they were?"),
            replace(model, name="model"),
            replace(answers, name="answers", asks="Does the endpoint refuse what it refused?"),
            *of_model,
            *of_answers,
        )
    verdict = _verdict(found, "Is the model still what its fingerprint says?")
    if isinstance(found, SampledAttestation):
        return (verdict,)
    if isinstance(found, AnswersAttestation):
        return (verdict,) if found.identity is None else (verdict, _identity(found.identity))
    family = Case(
        "lineage",
        "Is the model of the fingerprint's family?",
        "failed" if found.verdict == "another model" else "passed",
        ", ".join(map(str, found.lineage)) or found.why,
    )
    if found.verdict == "another model":
        # The checks ask about changes of the fingerprint's own model.
        return (verdict, family)
    return (verdict, family, *(_case(check) for check in found.checks if check.is_judged))


def _verdict(found: Attested, asks: str) -> Case:
    return Case(
        "verdict",
        asks,
        _STATES[EXIT_CODES[found.verdict]],
        f"{found.verdict}: {found.why}. {' '.join(found.limits)}",
    )


def _identity(found: IdentityAttestation) -> Case:
    return Case(
        "identity",
        "Is it the model whose sensitive canaries were chosen?",
        _STATES[found.exit_code],
        f"{found.verdict}: {found.why}, {found.changed} of {found.compared} answers by {found.by}. "
        f"{' '.join(found.limits)}",
    )


def _case(check: Check) -> Case:
    state: State = "failed" if check.speaks else "undecided" if check.is_unsure else "passed"
    layers = f", layers {', '.join(map(str, check.layers))}" if check.layers else ""
    asks = f"Does the check of {check.name} indicate tampering?"
    if check.name == OVER_REFUSAL:
        asks = "Are benign canaries refused that were answered?"
    if check.name == LOST_REFUSALS:
        asks = "Do fewer sampled answers to harmful canaries refuse?"
    return Case(
        check.name,
        asks,
        state,
        f"statistic {check.statistic:.3g}, threshold {check.threshold:.3g}, "
        f"p {check.p_value:.2g}{layers}",
    )


def junit(found: Attested) -> str:
    """An attestation as a JUnit report: a test case for the verdict, and one for each check.

        Path("audit.xml").write_text(audit.junit(found))

    A check that indicates tampering, lost refusals or over-refusal is a failure; one that cannot
    tell is an error. Verdict, reason, limits, score and the model's signature are properties of the
    suite.
    """
    asked = cases(found)
    counts = {
        "tests": len(asked),
        "failures": sum(each.state == "failed" for each in asked),
        "errors": sum(each.state == "undecided" for each in asked),
    }
    numbers = {name: str(count) for name, count in counts.items()}
    suites = ElementTree.Element("testsuites", {"name": _TOOL, **numbers})
    suite = ElementTree.SubElement(
        suites,
        "testsuite",
        {"name": visible(f"{_TOOL} of {found.model}"), **numbers, "skipped": "0"},
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _said(found).items():
        entry = {"name": name, "value": visible(str(value))}
        ElementTree.SubElement(properties, "property", entry)
    for each in asked:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": "cna_lens.audit", "name": each.name}
        )
        says = visible(each.says)
        if each.state == "passed":
            ElementTree.SubElement(case, "system-out").text = says
        else:
            kind = "failure" if each.state == "failed" else "error"
            told = {"message": says, "type": each.state}
            ElementTree.SubElement(case, kind, told).text = f"{each.asks}\n{says}"
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def sarif(found: Attested, fingerprint: str | Path) -> str:
    """An attestation as a SARIF 2.1.0 log.

        Path("audit.sarif").write_text(audit.sarif(found, "model.json"))

    Each check is a rule. Only what does not pass is a result, because code scanning of GitHub
    takes every result for an alert, whatever its `kind`. The numbers of all checks, the verdict,
    its reason, its limits and the model's signature are the run's properties.

    Args:
        found: the attestation.
        fingerprint: the path of the fingerprint's file, at which the results are shown. Below the
            working folder it is written relative to it, as code scanning expects of the root of a
            repository; elsewhere as a file URI.
    """
    asked = cases(found)
    place = {
        "physicalLocation": {
            "artifactLocation": {"uri": _uri(fingerprint)},
            "region": {"startLine": 1},
        }
    }
    rules = [
        {
            "id": _rule(each),
            "name": each.name.title().replace(" ", ""),
            "shortDescription": {"text": each.asks},
            "defaultConfiguration": {"level": "error"},
        }
        for each in asked
    ]
    results = [
        {
            "ruleId": _rule(each),
            "ruleIndex": index,
            "level": _LEVELS[each.state],
            "message": {"text": f"{visible(found.model)}: {visible(each.says)}"},
            "locations": [place],
            "partialFingerprints": {"check/v1": each.name},
        }
        for index, each in enumerate(asked)
        if each.state != "passed"
    ]
    checks = [{"name": each.name, "state": each.state, "says": each.says} for each in asked]
    driver = {
        "name": _TOOL,
        "version": dict(library_versions())["cna-lens"],
        "rules": rules,
    }
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "invocations": [{"executionSuccessful": True, "exitCode": found.exit_code}],
        "results": results,
        "properties": {**_said(found), "checks": checks},
    }
    log = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json_text(log, indent=1, sort_keys=False) + "\n"


def _said(found: Attested) -> dict[str, Any]:
    # The files of a model behind an endpoint are not seen.
    signature = None if isinstance(found, OfAnswers) else found.signature
    is_verified = signature is not None and signature.verified_with is not None
    return {
        "verdict": found.verdict,
        "why": found.why,
        "limits": " ".join(found.limits),
        "model": found.model,
        "fingerprint": found.fingerprint_of,
        "score": found.score,
        "signature": "none found" if signature is None else str(signature),
        "signature_verified": "yes" if is_verified else "no",
    }


def _uri(path: str | Path) -> str:
    """The URI of a file, relative where it lies below the working folder."""
    # A last link is kept: a repository has it at the place of the link.
    path = Path(path)
    whole = path.parent.resolve() / path.name
    return uri_below(whole, Path.cwd().resolve()) or whole.as_uri()


def uri_below(path: PurePath, working: PurePath) -> str | None:
    """The URI of an absolute path, relative to a folder; None if it is not below that folder.

    >>> from pathlib import PurePosixPath, PureWindowsPath
    >>> uri_below(PurePosixPath("/work/audit/of m.json"), PurePosixPath("/work"))
    'audit/of%20m.json'
    >>> uri_below(PureWindowsPath("C:/work/audit/m.json"), PureWindowsPath("c:/Work"))
    'audit/m.json'
    """
    if not path.is_relative_to(working):
        return None
    return quote(path.relative_to(working).as_posix())


def _rule(case: Case) -> str:
    return f"audit/{case.name.replace(' ', '-')}"
