"""The commands and their options.

This module loads no library that models need, so that `--help` is quick: each command imports what
it runs. An annotation of a command is read when this module is imported, and must be as light.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from cna_lens.cli.audit import app as audit_app
from cna_lens.cli.bench import app as bench_app
from cna_lens.cli.options import (
    SOURCE_HELP,
    AllowOtherModel,
    CircuitFile,
    Device,
    Json,
    KeepText,
    MaxNewTokens,
    Model,
    Multiplier,
    System,
    TemplateOption,
    chat_of,
    load_quietly,
    position_of,
    quiet_loading,
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


@app.command()
def find(
    model: Model,
    positive: Annotated[str, typer.Option(help=f"Prompts that show the behaviour: {SOURCE_HELP}.")],
    negative: Annotated[
        str, typer.Option(help="Prompts that do not show it, in one of the same forms.")
    ],
    out: Annotated[Path, typer.Option(help="Circuit file to write.")],
    fraction: Annotated[
        float | None, typer.Option(help="Share of all MLP neurons; 0.001 unless --k is given.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Number of neurons, instead of a share.")] = None,
    sign: Annotated[
        Sign, typer.Option(help="Differences to rank: by absolute value, or one sign only.")
    ] = "abs",
    universal: Annotated[
        bool, typer.Option(help="Exclude neurons that are strong on nearly every prompt.")
    ] = True,
    position: Annotated[
        str,
        typer.Option(
            help="Token to read: an index in the prompt, or 'answer' for where the answer begins "
            "behind the model's own reasoning."
        ),
    ] = "-1",
    system: System = None,
    template_option: TemplateOption = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Find a circuit and write it to a file."""
    from cna_lens.cli.render import circuit_record, print_json
    from cna_lens.discovery.pipeline import find_circuit

    chat = chat_of(system, template_option)
    prompts = read_source(positive), read_source(negative)
    circuit = find_circuit(
        load_quietly(model, device),
        *prompts,
        fraction=fraction,
        k=k,
        sign=sign,
        universal="default" if universal else None,
        position=position_of(position),
        chat=chat,
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
    max_new_tokens: MaxNewTokens = 64,
    system: System = None,
    template_option: TemplateOption = None,
    device: Device = None,
    allow_other_model: AllowOtherModel = False,
    as_json: Json = False,
) -> None:
    """Answer prompts without and with a circuit steered. Nothing is stored."""
    from cna_lens.cli.render import print_answers, print_json
    from cna_lens.models.running.generation import generate
    from cna_lens.results.circuit import Circuit
    from cna_lens.steering.scaling import steer

    neurons, chat = Circuit.load(circuit), chat_of(system, template_option)
    loaded = load_quietly(model, device)
    before = generate(loaded, prompts, max_new_tokens=max_new_tokens, chat=chat, progress=True)
    with steer(loaded, neurons, multiplier, allow_other_model=allow_other_model):
        after = generate(loaded, prompts, max_new_tokens=max_new_tokens, chat=chat, progress=True)
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
    out: Annotated[Path, typer.Option(help="Folder for the labels.")],
    circuit: Annotated[
        Path | None,
        typer.Option(help="A circuit file; without it only the unsteered model answers."),
    ] = None,
    multiplier: Multiplier = 0.0,
    max_new_tokens: MaxNewTokens = 64,
    system: System = None,
    template_option: TemplateOption = None,
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
    if judge_url is not None and judge is None:
        raise InputError(f"--judge-url is {judge_url}; name the model with --judge too")
    from cna_lens.cli.conditions import (
        UNSTEERED,
        answer_under_conditions,
        beside_control,
        cell_record,
        command_line,
        print_cells,
        print_files,
    )
    from cna_lens.cli.render import console, print_json
    from cna_lens.metrics.judging.judge import Judge, check_judge
    from cna_lens.results.circuit import Circuit
    from cna_lens.results.statistics import mcnemar
    from cna_lens.steering.scaling import steer

    started = time.perf_counter()
    asked, chat = read_source(prompts), chat_of(system, template_option)
    neurons = None if circuit is None else Circuit.load(circuit)
    by = None
    if judge is not None:
        by = Judge(judge, base_url=judge_url, cache=out / "judgements.cache")
        check_judge(by)
    loaded = load_quietly(model, device)
    conditions = [UNSTEERED]
    if neurons is not None:
        conditions += beside_control(
            "circuit",
            neurons,
            f"m = {multiplier:g}",
            lambda each: steer(loaded, each, multiplier, allow_other_model=allow_other_model),
        )
    options = {"model": model, "prompts": prompts, "circuit": circuit, "out": out, "device": device}
    options |= {"allow_other_model": allow_other_model, "keep_text": keep_text}
    options |= {"multiplier": multiplier, "max_new_tokens": max_new_tokens}
    options |= {"judge": judge, "judge_url": judge_url, "system": system}
    options |= {"template_option": template_option}
    cells = answer_under_conditions(
        loaded,
        conditions,
        {"given": asked},
        out,
        command=command_line("evaluate", options),
        settings={"multiplier": multiplier},
        max_new_tokens=max_new_tokens,
        chat=chat,
        keep_text=keep_text,
        started=started,
        judge=by,
    )
    unsteered, *others = cells
    refusals = {
        each.condition: mcnemar(unsteered.evaluation.refused, each.evaluation.refused)
        for each in others
    }
    compliance = {
        each.condition: each.evaluation.compliance_p_value(unsteered.evaluation) for each in others
    }
    if as_json:
        rows = [cell_record(cell) for cell in cells]
        tests = {"mcnemar_p": refusals, "compliance_mcnemar_p": compliance}
        print_json({"labels": str(out / "labels.jsonl"), "rows": rows, **tests})
        return
    print_cells(cells)
    for condition, p in refusals.items():
        of_compliance = compliance[condition]
        console.print(
            f"{condition}: exact McNemar p = {p:.2g} for refusals and "
            f"{'-' if of_compliance is None else f'{of_compliance:.2g}'} for compliance, against "
            "unsteered",
            highlight=False,
            markup=False,
        )
    print_files(out, "run.json", keep_text=keep_text)


@app.command()
def estimate(
    model: Model,
    config: Annotated[
        Path | None, typer.Option(help="A config.json to use; --model is then only a name.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Precision of weights and activations."),
    ] = "float32",
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
    (print_json if as_json else print_record)(record(needs, card, tflops))


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
    keep_text: KeepText = False,
    as_json: Json = False,
) -> None:
    """Find refusal circuits of a small model, steer them, and compare with random controls."""
    from cna_lens.cli.demo import run
    from cna_lens.cli.render import print_json

    result = run(
        model, out, prompts, device, report=report, keep_text=keep_text, verbose=not as_json
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
        discovery=(read_source(positive), read_source(negative)) if positive and negative else None,
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
    device: Device = None,
) -> None:
    """Write a report of results and their caveats as one HTML file; it needs no network."""
    if (model is None) != (prompts is None):
        raise InputError("views of tokens need both --model and --prompts")
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

        page = page.with_section(token_section(load_quietly(model, device), circuits[0], asked))
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
