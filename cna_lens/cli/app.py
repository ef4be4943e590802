"""The commands; what they print is made in `render`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cna_lens.cli import (
    audit as audit_command,
    demo as demo_command,
    estimate as estimate_command,
    evaluate as evaluate_command,
    play as play_command,
    report as report_command,
    reproduce as reproduce_command,
)
from cna_lens.cli.render import circuit_record, console, print_answers, print_circuit, quiet_loading
from cna_lens.cli.sources import SOURCE_HELP, read_source
from cna_lens.discovery.pipeline import find_circuit
from cna_lens.errors import InputError
from cna_lens.models.loading.load import load_model
from cna_lens.models.running.generation import generate
from cna_lens.results.circuit import Circuit
from cna_lens.results.scores import Sign
from cna_lens.steering.scaling import steer

app = typer.Typer(
    help="Find the MLP neurons that carry a behaviour, and test whether they cause it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(audit_command.app, name="audit")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Model = Annotated[
    str,
    typer.Option(help="'demo', a name on the Hugging Face Hub, a local folder, or a .gguf file."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, … The GPU is taken if there is one.")
]
KeepText = Annotated[
    bool,
    typer.Option(
        "--keep-text", help="Also write the answers' full texts to a file that says what it is."
    ),
]


@app.command()
def find(
    model: Model,
    positive: Annotated[str, typer.Option(help=f"Prompts that show the behaviour: {SOURCE_HELP}")],
    negative: Annotated[str, typer.Option(help="Prompts that do not, in the same way.")],
    out: Annotated[Path, typer.Option(help="Where to write the circuit.")],
    fraction: Annotated[
        float | None, typer.Option(help="Share of all MLP neurons; 0.001 unless --k is given.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Number of neurons instead of a share.")] = None,
    sign: Annotated[Sign, typer.Option(help="abs, positive or negative differences.")] = "abs",
    universal: Annotated[
        bool, typer.Option(help="Exclude neurons that are strong on nearly every prompt.")
    ] = True,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find a circuit and write it to a file."""
    prompts = read_source(positive), read_source(negative)
    quiet_loading()
    loaded = load_model(model, device=device)
    circuit = find_circuit(
        loaded,
        *prompts,
        fraction=fraction,
        k=k,
        sign=sign,
        universal="default" if universal else None,
        hash_weights=True,
    )
    circuit.save(out)
    if as_json:
        _print_json({"file": str(out), **circuit_record(circuit)})
    else:
        print_circuit(circuit)
        console.print(f"Written to {out}", soft_wrap=True)


@app.command()
def show(
    circuit: Annotated[Path, typer.Argument(help="A circuit file.")], as_json: Json = False
) -> None:
    """Show what is in a circuit file."""
    loaded = Circuit.load(circuit)
    if as_json:
        _print_json(circuit_record(loaded))
    else:
        print_circuit(loaded)


@app.command(name="steer")
def steer_command(
    model: Model,
    circuit: Annotated[Path, typer.Option(help="A circuit file.")],
    prompts: Annotated[list[str], typer.Argument(help="Prompts to answer.")],
    multiplier: Annotated[
        float, typer.Option(help="0 ablates the circuit, 1 changes nothing, above 1 amplifies it.")
    ] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 64,
    device: Device = None,
    allow_other_model: Annotated[
        bool, typer.Option(help="Accept a circuit found on a model of another name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer prompts without and with the circuit scaled. Nothing is stored."""
    loaded_circuit = Circuit.load(circuit)
    quiet_loading()
    loaded = load_model(model, device=device)
    before = generate(loaded, prompts, max_new_tokens=max_new_tokens, progress=True)
    with steer(loaded, loaded_circuit, multiplier, allow_other_model=allow_other_model):
        after = generate(loaded, prompts, max_new_tokens=max_new_tokens, progress=True)
    if as_json:
        rows = zip(prompts, before, after, strict=True)
        _print_json(
            {
                "multiplier": multiplier,
                "answers": [{"prompt": p, "unsteered": b, "steered": a} for p, b, a in rows],
            }
        )
    else:
        print_answers(prompts, before, after, multiplier)


@app.command()
def evaluate(
    model: Model,
    prompts: Annotated[str, typer.Option(help=f"What to ask: {SOURCE_HELP}")],
    out: Annotated[Path, typer.Option(help="Folder for the labels.")],
    circuit: Annotated[
        Path | None, typer.Option(help="A circuit file; answers are compared with it scaled.")
    ] = None,
    multiplier: Annotated[
        float, typer.Option(help="0 ablates the circuit, 1 changes nothing, above 1 amplifies it.")
    ] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 64,
    device: Device = None,
    allow_other_model: Annotated[
        bool, typer.Option(help="Accept a circuit found on a model of another name.")
    ] = False,
    keep_text: KeepText = False,
    as_json: Json = False,
) -> None:
    """Answer prompts and count refusals, unsteered, with a circuit scaled, and with a control."""
    loaded_circuit = None if circuit is None else Circuit.load(circuit)
    result = evaluate_command.run(
        model,
        read_source(prompts),
        out,
        loaded_circuit,
        multiplier,
        max_new_tokens=max_new_tokens,
        device=device,
        keep_text=keep_text,
        allow_other_model=allow_other_model,
        verbose=not as_json,
        sources={"prompts": prompts, "circuit": circuit},
    )
    if as_json:
        _print_json(result)


@app.command()
def estimate(
    model: Model,
    config: Annotated[
        Path | None, typer.Option(help="A config.json to use; --model then is only a name.")
    ] = None,
    dtype: Annotated[
        estimate_command.Dtype, typer.Option(help="Precision of weights and activations.")
    ] = "float32",
    device: Annotated[
        estimate_command.Device, typer.Option(help="Where it will run: cuda or cpu.")
    ] = "cuda",
    card: Annotated[float, typer.Option(help="GiB of one card.", min=1)] = 80,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="TFLOP/s that the hardware sustains; measured on this machine if left out."
        ),
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="Prompts to find a circuit from, or to answer.")
    ] = 200,
    length: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 64,
    as_json: Json = False,
) -> None:
    """Memory, cards and time that a model will need, without loading it."""
    quiet_loading()
    needs = estimate_command.run(
        model, config, dtype, device, prompts=prompts, length=length, new_tokens=new_tokens
    )
    record = estimate_command.record(needs, card, tflops)
    if as_json:
        _print_json(record)
    else:
        estimate_command.print_record(record)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for circuits and labels.")] = Path("out/demo"),
    model: Model = "demo-refusal",
    prompts: Annotated[
        int, typer.Option(help="Held-out prompts of each kind.", min=1, max=60)
    ] = 30,
    report: Annotated[
        Path | None, typer.Option(help="The report; report.html in the folder by default.")
    ] = None,
    device: Device = None,
    keep_text: KeepText = False,
    as_json: Json = False,
) -> None:
    """Find refusal circuits of a small model, steer with them, and compare with random controls."""
    result = demo_command.run(
        model, out, prompts, device, report=report, keep_text=keep_text, verbose=not as_json
    )
    if as_json:
        _print_json(result)


@app.command()
def play(
    model: Model,
    circuit: Annotated[Path, typer.Option(help="A circuit file.")],
    multiplier: Annotated[
        float, typer.Option(help="0 ablates the circuit, 1 changes nothing, above 1 amplifies it.")
    ] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.", min=1)] = 64,
    positive: Annotated[
        str | None,
        typer.Option(help=f"Prompts for CAA, by default the packaged ones: {SOURCE_HELP}"),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Its other prompts.")] = None,
    device: Device = None,
    allow_other_model: Annotated[
        bool, typer.Option(help="Accept a circuit found on a model of another name.")
    ] = False,
) -> None:
    """Type prompts and see both answers as they are written. Nothing is stored unless you /save."""
    if (positive is None) != (negative is None):
        raise InputError("CAA needs both --positive and --negative, or neither")
    discovery = (
        None if not positive or not negative else (read_source(positive), read_source(negative))
    )
    play_command.run(
        model,
        circuit,
        multiplier=multiplier,
        length=max_new_tokens,
        discovery=discovery,
        device=device,
        allow_other_model=allow_other_model,
    )


@app.command()
def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Circuits, labels, comparisons, saved evidence, study tables; or folders."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="What stands at its top.")] = "cna_lens report",
    model: Annotated[
        str | None, typer.Option(help="Also show tokens, coloured by the circuit on this model.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help=f"The prompts of these tokens: {SOURCE_HELP}")
    ] = None,
    device: Device = None,
) -> None:
    """Write one HTML file of results, with what to bear in mind; it needs no network."""
    if (model is None) != (prompts is None):
        raise InputError("views of tokens need both --model and --prompts")
    asked = None if prompts is None else read_source(prompts)
    report_command.run(results, out, title, model=model, prompts=asked, device=device)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
def reproduce(
    arguments: Annotated[list[str], typer.Argument(help="A name and options; --help lists them.")],
) -> None:
    """Reproduce a table or figure of the paper, from a checkout; `reproduce --help` says more."""
    raise typer.Exit(reproduce_command.run(arguments))


def _print_json(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record, indent=1, sort_keys=True) + "\n")
