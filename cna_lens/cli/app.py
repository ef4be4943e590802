"""The commands and their options.

This module loads no library that models need, so that `--help` is quick: each command imports what
it runs. An annotation of a command is read when this module is imported, and must be as light.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cna_lens.cli.audit import app as audit_app
from cna_lens.cli.bench import app as bench_app
from cna_lens.cli.options import (
    RANKING_HELP,
    SOURCE_HELP,
    AllowOtherModel,
    BatchSize,
    Chat,
    CircuitFile,
    Device,
    Dtype,
    Json,
    KeepText,
    MaxNewTokens,
    Model,
    Multiplier,
    Seed,
    SteeredPositions,
    System,
    Temperature,
    TemplateOption,
    TopP,
    chat_of,
    check_file,
    check_folder,
    layers_of,
    load_quietly,
    position_of,
    prompts_at_once,
    quiet_loading,
    ranking_of,
    read_both,
    read_source,
)
from cna_lens.errors import InputError
from cna_lens.results.neurons import Sign

app = typer.Typer(
    help="Find the MLP neurons that carry a behaviour, and test whether they cause it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(audit_app, name="audit")
app.add_typer(bench_app, name="bench")


def _print_version(asked: bool) -> bool:
    if asked:
        from cna_lens.results.provenance import library_versions

        typer.echo("\n".join(f"{name} {version}" for name, version in library_versions()))
        raise typer.Exit
    return asked


@app.callback()
def options_of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of cna_lens and of what it computes with.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Find the MLP neurons that carry a behaviour, and test whether they cause it."""


@app.command()
def find(
    model: Model,
    positive: Annotated[str, typer.Option(help=f"Prompts that show the behaviour: {SOURCE_HELP}.")],
    negative: Annotated[
        str, typer.Option(help="Prompts that do not show it, in one of the same forms.")
    ],
    out: Annotated[Path, typer.Option(help="Circuit file to write; it must not exist.")],
    fraction: Annotated[
        float | None, typer.Option(help="Share of all MLP neurons; 0.001 unless --k is given.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Number of neurons, instead of a share.")] = None,
    rank: Annotated[str, typer.Option(help=f"{RANKING_HELP}.")] = "contrast",
    sign: Annotated[
        Sign, typer.Option(help="Differences to rank: by absolute value, or one sign only.")
    ] = "abs",
    universal: Annotated[
        bool, typer.Option(help="Exclude neurons that are strong on nearly every prompt.")
    ] = True,
    universal_filter: Annotated[
        Literal["before", "after"],
        typer.Option(help="Exclude them before the top is chosen, or after."),
    ] = "before",
    layers: Annotated[
        str | None, typer.Option(help="Take neurons from these layers only, such as 0,3-5.")
    ] = None,
    max_per_layer: Annotated[
        int | None, typer.Option(help="Take at most this many neurons from each layer.", min=1)
    ] = None,
    position: Annotated[
        str,
        typer.Option(
            help="Token to read: an index in the prompt, or 'answer' for where the answer begins "
            "behind the model's own reasoning."
        ),
    ] = "-1",
    chat: Chat = None,
    system: System = None,
    template_option: TemplateOption = None,
    batch_size: BatchSize = None,
    dtype: Dtype = "float32",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find a circuit and write it to a file."""
    from cna_lens.cli.render import circuit_record, print_json
    from cna_lens.discovery.pipeline import find_circuit

    check_file(out, new=True)
    ranking, of_layers, at = ranking_of(rank), layers_of(layers), position_of(position)
    template = chat_of(chat, system, template_option)
    prompts = read_both(positive, negative)
    circuit = find_circuit(
        load_quietly(model, device, dtype),
        *prompts,
        fraction=fraction,
        k=k,
        rank=ranking,
        sign=sign,
        universal="default" if universal else None,
        universal_filter=universal_filter,
        layers=of_layers,
        max_per_layer=max_per_layer,
        position=at,
        chat=template,
        batch_size=prompts_at_once(batch_size),
        hash_weights=True,
    )
    circuit.save(out)
    if as_json:
        print_json({"file": str(out), **circuit_record(circuit)})
    else:
        typer.echo(f"{circuit}\nWritten to {out}")


@app.command()
def show(
    circuit: Annotated[Path, typer.Argument(help="A circuit file, written by `find`.")],
    as_json: Json = False,
) -> None:
    """Show the circuit in a file."""
    from cna_lens.cli.render import circuit_record, print_json
    from cna_lens.results.circuit import Circuit

    loaded = Circuit.load(circuit)
    if as_json:
        print_json(circuit_record(loaded))
    else:
        typer.echo(str(loaded))


@app.command()
def steer(
    model: Model,
    circuit: CircuitFile,
    prompts: Annotated[list[str], typer.Argument(help="Prompts to answer.")],
    multiplier: Multiplier = 0.0,
    positions: SteeredPositions = "all",
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    chat: Chat = None,
    system: System = None,
    template_option: TemplateOption = None,
    dtype: Dtype = "float32",
    device: Device = None,
    allow_other_model: AllowOtherModel = False,
    as_json: Json = False,
) -> None:
    """Answer prompts without and with a circuit steered. Nothing is stored."""
    from functools import partial

    from cna_lens.cli.render import print_answers, print_json
    from cna_lens.models.running.generation import generate
    from cna_lens.models.running.request import check_settings
    from cna_lens.results.circuit import Circuit
    from cna_lens.steering.scaling import check_multiplier, steer

    check_multiplier(multiplier)
    check_settings(max_new_tokens, temperature, top_p)
    neurons, template = Circuit.load(circuit), chat_of(chat, system, template_option)
    loaded = load_quietly(model, device, dtype)
    answer = partial(
        generate,
        loaded,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        chat=template,
        progress=True,
    )
    with steer(
        loaded, neurons, multiplier, positions=positions, allow_other_model=allow_other_model
    ):
        after = answer()
    before = answer()
    if as_json:
        rows = zip(prompts, before, after, strict=True)
        answers = [{"prompt": p, "unsteered": b, "steered": a} for p, b, a in rows]
        print_json({"multiplier": multiplier, "answers": answers})
    else:
        print_answers(prompts, before, after, multiplier)


@app.command()
def evaluate(
    model: Model,
    prompts: Annotated[str, typer.Option(help=f"Prompts to answer: {SOURCE_HELP}.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the labels; an interrupted run goes on from it.")
    ],
    circuit: Annotated[
        Path | None,
        typer.Option(help="A circuit file; without it only the unsteered model answers."),
    ] = None,
    multiplier: Multiplier = 0.0,
    positions: SteeredPositions = "all",
    max_new_tokens: MaxNewTokens = 64,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    samples: Annotated[int, typer.Option(help="Answers to each prompt.", min=1)] = 1,
    chat: Chat = None,
    system: System = None,
    template_option: TemplateOption = None,
    batch_size: BatchSize = None,
    dtype: Dtype = "float32",
    device: Device = None,
    allow_other_model: AllowOtherModel = False,
    judge: Annotated[
        str | None,
        typer.Option(
            help="A model to judge whether answers comply, which is sent prompts and answers; by "
            "default a rule about their words."
        ),
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="The judge's OpenAI-compatible endpoint.")
    ] = None,
    keep_text: KeepText = False,
    as_json: Json = False,
) -> None:
    """Count refusals and compliance: unsteered, with a circuit steered, and with a control."""
    from cna_lens.cli.evaluate import Asked, run

    if judge_url is not None and judge is None:
        raise InputError(f"--judge-url is {judge_url}; name the model with --judge too")
    run(
        Asked(
            model=model,
            prompts=prompts,
            out=out,
            circuit=circuit,
            multiplier=multiplier,
            positions=positions,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            samples=samples,
            chat=chat,
            system=system,
            template_option=template_option,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            allow_other_model=allow_other_model,
            judge=judge,
            judge_url=judge_url,
            keep_text=keep_text,
        ),
        as_json=as_json,
    )


@app.command()
def estimate(
    model: Model,
    config: Annotated[
        Path | None, typer.Option(help="A config.json to use; --model is then only a name.")
    ] = None,
    dtype: Dtype = "float32",
    device: Annotated[
        Literal["cuda", "cpu"], typer.Option(help="Where the model will run.")
    ] = "cuda",
    card: Annotated[float, typer.Option(help="Memory of one GPU, in GiB.", min=1)] = 80,
    tflops: Annotated[
        float | None,
        typer.Option(help="TFLOP/s that the hardware sustains; by default measured here."),
    ] = None,
    prompts: Annotated[
        int, typer.Option(help="Number of prompts, to find a circuit from or to answer.")
    ] = 200,
    length: Annotated[int, typer.Option(help="Tokens per prompt.")] = 64,
    new_tokens: Annotated[int, typer.Option(help="Tokens per answer.")] = 64,
    memory: Annotated[
        float | None,
        typer.Option(help="Free memory in GiB, with --device cpu; by default this machine's."),
    ] = None,
    disk: Annotated[
        float | None,
        typer.Option(help="GiB/s that the disk reads; by default measured where it matters."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate the memory, GPUs and time that a model needs, without loading it."""
    import torch

    from cna_lens.cli.estimate import print_record, record
    from cna_lens.cli.render import print_json
    from cna_lens.models.estimate import requirements

    quiet_loading()
    needs = requirements(
        model,
        config=config,
        dtype=getattr(torch, dtype),
        device=device,
        prompts=prompts,
        length=length,
        new_tokens=new_tokens,
    )
    found = record(needs, card, tflops, memory, disk)
    (print_json if as_json else print_record)(found)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for circuits and labels.")] = Path("out/demo"),
    model: Model = "demo-refusal",
    prompts: Annotated[
        int, typer.Option(help="Number of held-out prompts of each kind.", min=1, max=60)
    ] = 30,
    report: Annotated[
        Path | None, typer.Option(help="HTML file to write; by default report.html in the folder.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    keep_text: KeepText = False,
    as_json: Json = False,
) -> None:
    """Find refusal circuits of a small model, steer them, and compare with random controls."""
    from cna_lens.cli.demo import run
    from cna_lens.cli.render import print_json

    check_folder(out)
    check_file(report, "--report")
    result = run(
        model,
        out,
        prompts,
        device,
        dtype=dtype,
        report=report,
        keep_text=keep_text,
        verbose=not as_json,
    )
    if as_json:
        print_json(result)


@app.command()
def play(
    model: Model,
    circuit: CircuitFile,
    multiplier: Multiplier = 0.0,
    max_new_tokens: MaxNewTokens = 64,
    positive: Annotated[
        str | None,
        typer.Option(help=f"Positive prompts for CAA, by default packaged ones: {SOURCE_HELP}."),
    ] = None,
    negative: Annotated[str | None, typer.Option(help="Negative prompts for CAA.")] = None,
    dtype: Dtype = "float32",
    device: Device = None,
    allow_other_model: AllowOtherModel = False,
) -> None:
    """Type prompts and watch both answers being written. Only /save stores anything."""
    if (positive is None) != (negative is None):
        raise InputError("CAA needs both --positive and --negative, or neither")
    from cna_lens.cli.play import run

    run(
        model,
        circuit,
        multiplier=multiplier,
        length=max_new_tokens,
        discovery=read_both(positive, negative) if positive and negative else None,
        dtype=dtype,
        device=device,
        allow_other_model=allow_other_model,
    )


@app.command()
def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Circuits, labels, comparisons, saved evidence, study tables; or folders of them."
        ),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the report.")] = "cna_lens report",
    model: Annotated[
        str | None,
        typer.Option(help="Also show tokens, coloured by the circuit's activations on this model."),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help=f"Prompts whose tokens are shown: {SOURCE_HELP}.")
    ] = None,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Write a report of results and their caveats as one HTML file; it needs no network."""
    if (model is None) != (prompts is None):
        raise InputError("views of tokens need both --model and --prompts")
    check_file(out)
    from cna_lens.cli.render import print_report_path
    from cna_lens.report.document import make_report
    from cna_lens.report.reading import read_results
    from cna_lens.results.circuit import Circuit

    asked = None if prompts is None else read_source(prompts)
    found = read_results(results)
    page = make_report(found, title=title)
    if model is not None and asked is not None:
        circuits = [each.result for each in found.results if isinstance(each.result, Circuit)]
        if len(circuits) != 1:
            raise InputError(
                f"there are {len(circuits)} circuits among the results; views of tokens show one: "
                "give one circuit file with --model and --prompts"
            )
        from cna_lens.report.tokens import token_section

        page = page.with_section(
            token_section(load_quietly(model, device, dtype), circuits[0], asked)
        )
    page.save(out)
    for name, why in found.left_out:
        typer.secho(f"Not shown: {name}: {why}", fg="yellow")
    print_report_path(out)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
def reproduce(
    arguments: Annotated[list[str], typer.Argument(help="A name and options; --help lists them.")],
) -> None:
    """Reproduce a table or figure of the paper, from a checkout; see `reproduce --help`."""
    from cna_lens.cli.reproduce import run

    raise typer.Exit(run(arguments))
