"""`audit fingerprint`, `canaries`, `attest`, `sign`, `hooks` and `watch`, also for pipelines.

As light as `cna_lens.cli.app`; the room `audit` loads a function when it is first asked for it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from cna_lens import audit
from cna_lens.cli.audit.choosing import canaries
from cna_lens.cli.audit.gate import Gate, written
from cna_lens.cli.audit.named import canaries_of, endpoint_of, key_of, model_signature_of
from cna_lens.cli.options import (
    SOURCE_HELP,
    AllowOtherModel,
    CircuitFile,
    Device,
    Dtype,
    Json,
    Model,
    check_file,
    load_quietly,
)

app = typer.Typer(
    cls=Gate,
    help="Check whether a model, and the path to its answers, have changed. "
    "Exit code 0: they have not; 1: they have; 2: undecided, or an error.",
    no_args_is_help=True,
)

Canaries = Annotated[
    Path | None,
    typer.Option(help="Your own canaries: a .csv file with the columns harmful and benign."),
]
Key = Annotated[
    Path | None,
    typer.Option(help="A secret file that keys the hashes of the canaries; it is not stored."),
]


@app.command()
def fingerprint(
    model: Model,
    out: Annotated[Path, typer.Option(help="Fingerprint file to write; it must not exist.")],
    circuit: Annotated[
        Path | None, typer.Option(help="A circuit file; by default found on the canaries.")
    ] = None,
    canaries: Canaries = None,
    key: Key = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            help="A private key (PEM) to sign with: Ed25519, or P-256 for the format of OpenSSF's "
            "model signing."
        ),
    ] = None,
    position: Annotated[
        Literal["-1", "answer"],
        typer.Option(
            help="Read the canaries at their last token, or where the answer begins behind the "
            "model's own reasoning."
        ),
    ] = "-1",
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Take the fingerprint of a model that you trust."""
    from cna_lens.cli.render import print_json
    from cna_lens.results.circuit import Circuit

    check_file(out, new=True)
    own = canaries_of(canaries)
    neurons = None if circuit is None else Circuit.load(circuit)
    secret = key_of(key)
    if sign is not None:
        audit.check_private_key(sign)
    taken = audit.fingerprint(
        load_quietly(model, device, dtype),
        neurons,
        own,
        key=secret,
        position="answer" if position == "answer" else -1,
    )
    if sign is None:
        taken.save(out)
    else:
        audit.save_signed(taken, out, sign)
    if not as_json:
        typer.echo(f"{taken!r}\nWritten to {out}")
        return
    print_json(
        {
            "fingerprint": str(out),
            "model": taken.model,
            "canaries": taken.canaries.name,
            "harmful_refused": asdict(taken.harmful_refused),
            "benign_refused": asdict(taken.benign_refused),
            "signed": sign is not None,
        }
    )


app.command()(canaries)


@app.command()
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
        typer.Option(help="Compare weights too, the default, or only activations and logits."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="URL of an OpenAI-compatible endpoint that serves --model; it is sent the "
            "canaries, and only its refusals are compared."
        ),
    ] = None,
    sensitive: Annotated[
        Path | None,
        typer.Option(
            help="A file written by `audit canaries`: is it the model at all? Sent to --endpoint."
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
    """Compare a model, or an endpoint, with a fingerprint."""
    from cna_lens.cli.render import print_json, print_report_path
    from cna_lens.results.files import write_atomically

    files = {"--out": out, "--report": report, "--junit": junit, "--sarif": sarif}
    for option, file in files.items():
        check_file(file, option)
    served = endpoint_of(
        model,
        endpoint,
        {"--access": access, "--device": device, "--model-key": model_key},
        {"--sensitive": sensitive, "--max-requests": max_requests, "--max-seconds": max_seconds},
    )
    taken = (
        audit.Fingerprint.load(fingerprint)
        if verify is None
        else audit.load_signed(fingerprint, verify)
    )
    own, secret = canaries_of(canaries), key_of(key)
    if served is None:
        # Before the model is loaded: what was altered is not read.
        signature = model_signature_of(model, model_key)
        found = audit.attest(
            load_quietly(model, device, dtype),
            taken,
            own,
            access=access or "weights",
            key=secret,
            progress=not as_json,
        )
        found = replace(found, signature=signature)
    else:
        found = audit.attest_answers(
            served,
            taken,
            own,
            key=secret,
            max_requests=max_requests,
            max_seconds=max_seconds,
            sensitive=None if sensitive is None else audit.SensitiveCanaries.load(sensitive),
            progress=not as_json,
        )
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


@app.command()
def sign(
    model: Annotated[Path, typer.Option(help="The folder of a model's files.")],
    key: Annotated[Path, typer.Option(help="A private key on P-256, P-384 or P-521 (PEM).")],
    allow_symlinks: Annotated[
        bool, typer.Option(help="Follow symbolic links to files, as in the cache of the Hub.")
    ] = False,
) -> None:
    """Sign a model's files as OpenSSF's model signing does, in model.sig beside them."""
    typer.echo(f"Written to {audit.sign_model(model, key, allow_symlinks=allow_symlinks)}")


@app.command()
def hooks(
    model: Model, dtype: Dtype = "float32", device: Device = None, as_json: Json = False
) -> None:
    """List hooks and patches on the inference path that are not the model's own."""
    from cna_lens.cli.render import print_json

    found = audit.hooks(load_quietly(model, device, dtype))
    if as_json:
        print_json({"hooks": [asdict(each) for each in found]})
    else:
        nothing = ["Nothing but the model's own is on the inference path."]
        typer.echo("\n".join(map(str, found) if found else nothing))
    raise typer.Exit(1 if found else 0)


@app.command()
def watch(
    model: Model,
    circuit: CircuitFile,
    requests: Annotated[
        str,
        typer.Option(help=f"'-' for standard input, one request per line; or {SOURCE_HELP}."),
    ],
    usual: Annotated[
        Path | None,
        typer.Option(help="Counts of a trusted period; by default the first requests serve."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the counts, written unless there is an alarm; no texts."),
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Probability of ever raising an alarm if nothing changed.")
    ] = 0.001,
    least: Annotated[
        int, typer.Option(help="With fewer requests and no alarm, the exit code is 2.", min=1)
    ] = 100,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="Serve counts and evidence for Prometheus at this port, and go on after an alarm.",
            min=0,
            max=65535,
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address at which the metrics are served.")
    ] = "127.0.0.1",
    allow_other_model: AllowOtherModel = False,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Run requests in order, and stop at the first alarm that a circuit has changed."""
    from cna_lens.cli.audit.watching import (
        EXIT_CODES,
        requests_of,
        verdict_of,
        watch_record,
        watch_requests,
    )
    from cna_lens.cli.render import print_json
    from cna_lens.results.circuit import Circuit

    check_file(out)
    neurons = Circuit.load(circuit)
    before = None if usual is None else audit.Histograms.load(usual)
    asked = requests_of(requests)
    watched, written = watch_requests(
        load_quietly(model, device, dtype),
        neurons,
        asked,
        before,
        false_alarm_rate=false_alarm_rate,
        out=out,
        allow_other_model=allow_other_model,
        progress=not as_json,
        metrics=None if metrics_port is None else (metrics_port, metrics_host),
    )
    verdict = verdict_of(watched, least)
    if as_json:
        print_json(watch_record(watched, verdict) | {"written": str(out) if written else None})
    else:
        lines = [f"{verdict}: {watched.alarm or watched}"]
        if written:
            lines.append(f"Written to {out}")
        elif out is not None and watched.alarm is not None:
            lines.append(f"{out} is not written: a changed model must not become the usual one")
        typer.echo("\n".join(lines))
    raise typer.Exit(EXIT_CODES[verdict])
