"""`audit canaries`: choose the canaries that tell a changed model by its answers alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cna_lens import audit
from cna_lens.cli.options import (
    SOURCE_HELP,
    Device,
    Dtype,
    Json,
    Model,
    check_file,
    load_quietly,
    read_source,
)
from cna_lens.errors import InputError


def canaries(
    model: Model,
    out: Annotated[Path, typer.Option(help="File for the canaries; it must not exist.")],
    pool: Annotated[
        str | None,
        typer.Option(help=f"Prompts to choose from: {SOURCE_HELP}. By default packaged ones."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="How many canaries to choose.")] = 50,
    tokens: Annotated[int, typer.Option(help="Tokens of each answer.")] = 8,
    drift: Annotated[
        list[str] | None,
        typer.Option(
            help="What counts as the same model: 'batch size', bfloat16, int8 or int4. Repeat it "
            "for several; by default the first two."
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Choose secret canaries that tell by answers alone whether an endpoint serves a model."""
    from cna_lens.cli.render import print_json

    check_file(out, new=True)
    prompts = None if pool is None else read_source(pool)
    if prompts is not None and not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"{pool} holds lists of messages; canaries are prompts of one message")
    chosen = audit.sensitive_canaries(
        load_quietly(model, device, dtype),
        None if prompts is None else [str(prompt) for prompt in prompts],
        n,
        n_tokens=tokens,
        drift=audit.DRIFT if drift is None else drift,
        progress=not as_json,
    )
    chosen.save(out)
    if not as_json:
        typer.echo(f"{chosen!r}\nWritten to {out}; keep it secret")
        return
    print_json(
        {
            "canaries": str(out),
            "model": chosen.model,
            "n": len(chosen.prompts),
            "pool": chosen.n_pool,
            "stable": chosen.n_stable,
            "drifted": [asdict(each) for each in chosen.drifted],
        }
    )
