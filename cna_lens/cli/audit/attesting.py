"""`audit attest`: compare a model, its endpoint, or both with a fingerprint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cna_lens import audit
from cna_lens.cli.audit.gate import written
from cna_lens.cli.audit.named import (
    Canaries,
    Key,
    canaries_of,
    endpoint_of,
    key_of,
    model_signature_of,
)
from cna_lens.cli.options import Device, Dtype, Json, Model, check_file, load_quietly
from cna_lens.errors import InputError

if TYPE_CHECKING:
    from cna_lens.metrics.endpoint.settings import Endpoint


def attest(
    model: Model,
    fingerprint: Annotated[Path, typer.Option(help="A file written by `audit fingerprint`.")],
    canaries: Canaries = None,
    key: Key = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            help="A public key (PEM), Ed25519 or P-256; a fingerprint not signed by it is refused."
        ),
    ] = None,
    model_key: Annotated[
        Path | None,
        typer.Option(
            help="A public key on P-256 (PEM); a model's folder is refused unless its model.sig is "
            "signed by it and all files are as signed."
        ),
    ] = None,
    access: Annotated[
        Literal["weights", "activations"] | None,
        typer.Option(help="Compare weights too, the default, or only activations and answers."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="URL of an OpenAI-compatible endpoint that serves --model; it is sent the "
            "canaries, and only its refusals are compared."
        ),
    ] = None,
    served_as: Annotated[
        str | None,
        typer.Option(
            help="The model's name at --endpoint. --model is loaded and compared too, so that a "
            "change of the model is told from one of the way to its answers."
        ),
    ] = None,
    sensitive: Annotated[
        Path | None,
        typer.Option(
            help="A file written by `audit canaries`: is it the model at all? Sent to --endpoint."
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Answers to each harmful canary, sampled at temperature 1; how many refuse is "
            "compared. A loaded model gives one by default, 0 leaves it out. Needed for an "
            "--endpoint that gives no greedy answers.",
            min=0,
        ),
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option(help="Most requests to the endpoint, retries included.", min=1)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Most seconds that the endpoint is asked for.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the attestation.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML file for the attestation.")] = None,
    junit: Annotated[
        Path | None, typer.Option(help="JUnit file, for the test reports of GitLab and others.")
    ] = None,
    sarif: Annotated[
        Path | None, typer.Option(help="SARIF file, for the code scanning of GitHub and others.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare a model, an endpoint, or both with a fingerprint."""
    from cna_lens.cli.render import print_json, print_report_path
    from cna_lens.results.files import write_atomically

    files = {"--out": out, "--report": report, "--junit": junit, "--sarif": sarif}
    for option, file in files.items():
        check_file(file, option)
    served = endpoint_of(
        model,
        endpoint,
        served_as,
        {"--access": access, "--device": device, "--model-key": model_key},
        {
            "--sensitive": sensitive,
            "--max-requests": max_requests,
            "--max-seconds": max_seconds,
        },
    )
    of_endpoint = samples if served is not None and served_as is None else None
    if of_endpoint == 0:
        raise InputError(
            "--samples is 0, and an endpoint gives at least one answer to each canary; leave it "
            "out for greedy answers"
        )
    if of_endpoint is not None and sensitive is not None:
        raise InputError(
            "--sensitive needs greedy answers, and those of --samples are drawn at random; leave "
            "out one"
        )
    taken = (
        audit.Fingerprint.load(fingerprint)
        if verify is None
        else audit.load_signed(fingerprint, verify)
    )
    own, secret = canaries_of(canaries), key_of(key)
    asked = None if sensitive is None else audit.SensitiveCanaries.load(sensitive)

    def of_model() -> audit.Attestation:
        # Before the model is loaded: what was altered is not read.
        signature = model_signature_of(model, model_key)
        attested = audit.attest(
            load_quietly(model, device, dtype),
            taken,
            own,
            access=access or "weights",
            key=secret,
            samples=samples,
            progress=not as_json,
        )
        return replace(attested, signature=signature)

    def of_answers(endpoint: Endpoint) -> audit.AnswersAttestation:
        return audit.attest_answers(
            endpoint,
            taken,
            own,
            key=secret,
            max_requests=max_requests,
            max_seconds=max_seconds,
            sensitive=asked,
            progress=not as_json,
        )

    if served is None:
        found = of_model()
    elif of_endpoint is not None:
        found = audit.attest_sampled_answers(
            replace(served, temperature=1.0),
            taken,
            own,
            samples=of_endpoint,
            key=secret,
            max_requests=max_requests,
            max_seconds=max_seconds,
            progress=not as_json,
        )
    elif served_as is None:
        found = of_answers(served)
    else:
        found = audit.judge_served(of_model(), of_answers(served))
    if out is not None:
        with written("--out", out):
            found.save(out)
    if junit is not None:
        with written("--junit", junit):
            write_atomically(junit, audit.junit(found))
    if sarif is not None:
        with written("--sarif", sarif):
            write_atomically(sarif, audit.sarif(found, fingerprint))
    if report is not None:
        from cna_lens.report.document import make_report

        with written("--report", report):
            make_report({model: found}, title=f"Audit of {model}").save(report)
    if as_json:
        print_json(found.record())
    else:
        typer.echo(str(found))
        if report is not None:
            print_report_path(report)
    raise typer.Exit(found.exit_code)
