"""`audit fingerprint`, `attest`, `hooks` and `watch`, for people and for gates in pipelines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cna_lens import audit
from cna_lens.cli.audit.watching import Said, requests_of, said, watch_record, watch_requests
from cna_lens.cli.render import console, quiet_loading
from cna_lens.cli.report import say_where
from cna_lens.cli.sources import SOURCE_HELP
from cna_lens.errors import InputError
from cna_lens.models.loading.load import load_model
from cna_lens.report.document import make_report
from cna_lens.results.circuit import Circuit

EXIT_CODES: Mapping[str, int] = {"match": 0, "benign drift": 0, "tampered": 1, "undecided": 2}

WATCH_EXIT_CODES: Mapping[Said, int] = {"no alarm": 0, "alarm": 1, "too few requests": 2}

app = typer.Typer(
    help="Is this model, and the way to its answers, still what it was? "
    "Exit code 0: yes; 1: tampered with; 2: it could not be decided.",
    no_args_is_help=True,
)

Model = Annotated[
    str,
    typer.Option(help="'demo', a name on the Hugging Face Hub, a local folder, or a .gguf file."),
]
Canaries = Annotated[
    Path | None,
    typer.Option(help="Your own: a .csv file with the columns harmful and benign."),
]
Key = Annotated[
    Path | None,
    typer.Option(help="A file whose bytes key the canaries' hashes, and are kept out of the file."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, … The GPU is taken if there is one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.command()
def fingerprint(
    model: Model,
    out: Annotated[Path, typer.Option(help="Where to write the fingerprint.")],
    circuit: Annotated[
        Path | None, typer.Option(help="A circuit file; found on the canaries if left out.")
    ] = None,
    canaries: Canaries = None,
    key: Key = None,
    sign: Annotated[
        Path | None, typer.Option(help="A private key of Ed25519, as PEM, to sign with.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Take the fingerprint of a model that is what it should be."""
    own = _canaries(canaries)
    found_circuit = None if circuit is None else Circuit.load(circuit)
    secret = _key(key)
    if sign is not None:
        audit.check_private_key(sign)
    quiet_loading()
    loaded = load_model(model, device=device)
    taken = audit.fingerprint(loaded, found_circuit, own, key=secret)
    if sign is None:
        taken.save(out)
    else:
        audit.save_signed(taken, out, sign)
    if as_json:
        _print_json(
            {
                "fingerprint": str(out),
                "model": taken.model,
                "canaries": taken.canaries.name,
                "harmful_refused": asdict(taken.harmful_refused),
                "benign_refused": asdict(taken.benign_refused),
                "signed": sign is not None,
            }
        )
        return
    console.print(repr(taken), markup=False, highlight=False)
    console.print(f"Written to {out}", soft_wrap=True, highlight=False, markup=False)


@app.command()
def attest(
    model: Model,
    fingerprint: Annotated[Path, typer.Option(help="The file that `audit fingerprint` wrote.")],
    canaries: Canaries = None,
    key: Key = None,
    verify: Annotated[
        Path | None,
        typer.Option(help="A public key of Ed25519, as PEM; a fingerprint not signed by it fails."),
    ] = None,
    access: Annotated[
        Literal["weights", "activations"],
        typer.Option(help="Look at weights too, or at activations and logits alone."),
    ] = "weights",
    out: Annotated[Path | None, typer.Option(help="Write the attestation as JSON.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write it as HTML.")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare a model with a fingerprint."""
    taken = (
        audit.Fingerprint.load(fingerprint)
        if verify is None
        else audit.load_signed(fingerprint, verify)
    )
    own, secret = _canaries(canaries), _key(key)
    quiet_loading()
    loaded = load_model(model, device=device)
    found = audit.attest(loaded, taken, own, access=access, key=secret, progress=not as_json)
    if out is not None:
        found.save(out)
    if report is not None:
        make_report({model: found}, title=f"Audit of {model}").save(report)
    if as_json:
        _print_json(found.record())
    else:
        console.print(str(found), markup=False, highlight=False)
        if report is not None:
            say_where(report)
    raise typer.Exit(EXIT_CODES[found.verdict])


@app.command()
def hooks(model: Model, device: Device = None, as_json: Json = False) -> None:
    """List what is on the inference path and is not the model's own."""
    quiet_loading()
    found = audit.hooks(load_model(model, device=device))
    if as_json:
        _print_json({"hooks": [asdict(each) for each in found]})
    else:
        lines = list(map(str, found)) or ["Nothing but the model's own is on the inference path."]
        console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
    raise typer.Exit(1 if found else 0)


@app.command()
def watch(
    model: Model,
    circuit: Annotated[Path, typer.Option(help="The circuit file whose neurons are watched.")],
    requests: Annotated[
        str,
        typer.Option(help=f"'-' for standard input, one a line, as they come; or {SOURCE_HELP}"),
    ],
    usual: Annotated[
        Path | None,
        typer.Option(help="Counts of a trusted period; without them the first requests serve."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write all counts there, unless there is an alarm; no text is kept."),
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="The chance that there ever is an alarm where nothing changed.")
    ] = 0.001,
    least: Annotated[
        int, typer.Option(help="With fewer requests, no alarm says nothing: exit code 2.", min=1)
    ] = 100,
    allow_other_model: Annotated[
        bool,
        typer.Option(
            "--allow-other-model",
            help="Take a circuit found on a model of another name, such as the same in a folder.",
        ),
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Ask requests in their order, to the first alarm that a circuit is not what it was."""
    neurons = Circuit.load(circuit)
    before = None if usual is None else audit.Histograms.load(usual)
    asked = requests_of(requests)
    quiet_loading()
    watched, written = watch_requests(
        load_model(model, device=device),
        neurons,
        asked,
        before,
        false_alarm_rate=false_alarm_rate,
        out=out,
        allow_other_model=allow_other_model,
        progress=not as_json,
    )
    verdict = said(watched, least)
    if as_json:
        _print_json(watch_record(watched, verdict) | {"written": str(out) if written else None})
    else:
        lines = [f"{verdict}: {watched.alarm or watched}"]
        if written:
            lines.append(f"Written to {out}")
        elif out is not None and watched.alarm is not None:
            lines.append(f"{out} is not written: a changed model must not become the usual one")
        console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
    raise typer.Exit(WATCH_EXIT_CODES[verdict])


def _canaries(path: Path | None) -> audit.Canaries | None:
    return None if path is None else audit.Canaries.read(path)


def _key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {path} cannot be read: {error.strerror}") from error
    if not content:
        raise InputError(f"the key {path} is empty; 32 random bytes make a good one")
    return content


def _print_json(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record, indent=1, sort_keys=True) + "\n")
