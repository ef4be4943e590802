"""`audit fingerprint`, `canaries`, `attest`, `sign`, `hooks` and `watch`, also for pipelines.

As light as `cna_lens.cli.app`; the room `audit` loads a function when it is first asked for it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from cna_lens import audit
from cna_lens.cli.audit.attesting import attest
from cna_lens.cli.audit.choosing import canaries
from cna_lens.cli.audit.gate import Gate
from cna_lens.cli.audit.named import Canaries, Key, canaries_of, key_of
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


app.command()(attest)


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
