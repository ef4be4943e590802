"""Prompts answered unsteered, steered and with a random control: their files and their table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from cna_lens.cli.render import console, progress_console
from cna_lens.errors import JudgeError
from cna_lens.metrics.conditions import Answered, save_labels
from cna_lens.metrics.evaluation import Evaluation, UnjudgedError, evaluate
from cna_lens.metrics.judging.judge import Judge
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.trial.trial import tried, what_is_slower
from cna_lens.report.answers import told_by
from cna_lens.report.runs import Run, Setting
from cna_lens.results.circuit import Circuit
from cna_lens.results.statistics import Rate
from cna_lens.steering.methods.controls import matched_random

Option = Setting | Path | Sequence[str]


@dataclass(frozen=True)
class Condition:
    """How a model is steered while it answers.

    Attributes:
        name: in tables; the name of a control begins with "random control".
        file_part: part of the name of the file with the answers' texts.
        steering: entered while the model answers.
    """

    name: str
    file_part: str
    steering: AbstractContextManager[Any]


UNSTEERED = Condition("unsteered, m = 1", "unsteered", nullcontext())


def beside_control(
    name: str,
    circuit: Circuit,
    change: str,
    steering: Callable[[Circuit], AbstractContextManager[Any]],
    *,
    file_suffix: str = "",
) -> list[Condition]:
    """Steer a circuit, and steer as many random neurons of the same layers in the same way."""
    control = matched_random(circuit)
    return [
        Condition(
            f"{each}, {change}",
            each.lower().replace(" ", "-") + file_suffix,
            steering(neurons),
        )
        for each, neurons in ((name, circuit), ("random control", control))
    ]


def answer_under_conditions(
    model: HookedModel,
    conditions: Sequence[Condition],
    prompts: Mapping[str, Sequence[Prompt]],
    out: Path,
    *,
    command: str,
    settings: Mapping[str, Setting],
    max_new_tokens: int,
    keep_text: bool,
    started: float,
    chat: Chat = "auto",
    judge: Judge | None = None,
) -> list[Answered]:
    """Answer each kind of prompts under each condition, and write labels.jsonl and run.json.

    Args:
        model: a TransformerBridge or HookedTransformer.
        conditions: what is done to it, one after the other.
        prompts: the prompts of each kind.
        out: the folder of the files.
        command: for run.json, from `command_line`.
        settings: for run.json, what the answers depend on besides `max_new_tokens`.
        max_new_tokens: maximum number of tokens per answer.
        keep_text: also write the texts of each condition, such as answers-unsteered.jsonl.
        started: start of the command, by `time.perf_counter`.
        chat: how prompts are put into the chat template.
        judge: a model to judge whether answers comply.

    Raises:
        JudgeError: the judge failed. labels.jsonl then holds the labels so far, without the judge's
            of the last condition.
    """
    texts = [text for kind in prompts.values() for text in kind]
    cells: list[Answered] = []
    for condition in conditions:
        progress_console.print(f"Answering {len(texts)} prompts: {condition.name}")
        try:
            with condition.steering:
                evaluation = evaluate(
                    model,
                    texts,
                    max_new_tokens=max_new_tokens,
                    chat=chat,
                    judge=judge,
                    keep_text=keep_text,
                    text_path=out / f"answers-{condition.file_part}.jsonl" if keep_text else None,
                    progress=True,
                )
        except UnjudgedError as error:
            cells += _by_kind(condition.name, prompts, error.evaluation)
            save_labels(cells, out / "labels.jsonl")
            raise JudgeError(
                f"{error.__cause__}; {out / 'labels.jsonl'} holds the labels of answers up to "
                f"{condition.name}, of which the last lack compliance"
            ) from error
        cells += _by_kind(condition.name, prompts, evaluation)
    save_labels(cells, out / "labels.jsonl")
    Run(
        command=command,
        model=model_name(model),
        weights_sha256=weights_hash(model),
        prompts={kind: encode(model, texts, chat=chat).record for kind, texts in prompts.items()},
        settings={
            **settings,
            "max_new_tokens": max_new_tokens,
            "judge": None if judge is None else judge.model,
        },
        seconds=time.perf_counter() - started,
        date=datetime.now(UTC).date().isoformat(),
        slower=what_is_slower(tried(model)),
    ).save(out / "run.json")
    return cells


def _by_kind(
    condition: str, prompts: Mapping[str, Sequence[Prompt]], evaluation: Evaluation
) -> Iterator[Answered]:
    records = iter(evaluation.records)
    for kind, its_prompts in prompts.items():
        yield Answered(condition, kind, Evaluation(tuple(next(records) for _ in its_prompts)))


def command_line(command: str, options: Mapping[str, Option]) -> str:
    """Return a command as it would be typed again, with every option named.

    >>> command_line("demo", {"model": "my model", "keep_text": True, "device": None})
    "cna-lens demo --model 'my model' --keep-text"
    >>> command_line("evaluate", {"template_option": ["a=1", "b=2"]})
    'cna-lens evaluate --template-option a=1 --template-option b=2'
    """
    words = ["cna-lens", command]
    for name, given in options.items():
        for value in given if isinstance(given, list) else [given]:
            if value is not None and value is not False:
                words.append(f"--{name.replace('_', '-')}")
                if value is not True:
                    words.append(str(value))
    return shlex.join(words)


def cell_record(cell: Answered) -> dict[str, Any]:
    """Return the rates of one kind of prompts under one condition as plain data."""
    found = cell.evaluation
    rates = {
        "refusal": found.refusal_rate,
        "compliance": found.compliance_rate,
        "no_answer": found.no_answer_rate,
        "quality": found.quality,
    }
    return {
        "condition": cell.condition,
        "kind": cell.kind,
        "judges": list(found.judges),
        **{name: None if value is None else asdict(value) for name, value in rates.items()},
    }


def print_cells(cells: Sequence[Answered], notes: Mapping[str, str] | None = None) -> None:
    """Print a table of rates and quality, then the meaning of its columns and conditions.

    Args:
        cells: the answers of each kind under each condition.
        notes: the meaning of further words, by word.
    """
    # Without its edges the table keeps to 80 columns.
    table = Table(title="Form and compliance", show_edge=False, pad_edge=False)
    table.add_column("condition")
    table.add_column("prompts")
    for column in ("refused", "complied", "no answer", "quality"):
        table.add_column(column, justify="right")
    for cell in cells:
        found, quality = cell.evaluation, cell.evaluation.quality
        table.add_row(
            cell.condition,
            f"{cell.kind}\nn = {len(found)}",
            _lines(found.refusal_rate, len(found)),
            _lines(found.compliance_rate, len(found)),
            _lines(found.no_answer_rate, len(found)),
            "-" if quality is None else f"{quality.value:.3f}",
        )
    console.print(table)
    meanings = {
        "refused": "the answer opens with a refusal: its form",
        "complied": f"the answer does what was asked, {told_by([c.evaluation for c in cells])}",
        "no answer": "the answer is empty or degenerate; it still counts in n",
        "quality": "1 minus the share of repeated 4-word sequences",
    }
    if any(cell.is_control for cell in cells):
        meanings["random control"] = "as many random neurons of the same layers"
    meanings["[ , ]"] = "95 % Wilson intervals"
    grid = Table.grid(padding=(0, 2))
    for word, meaning in (meanings | dict(notes or {})).items():
        grid.add_row(escape(word), meaning, style="dim")
    console.print(grid)


def _lines(rate: Rate | None, n: int) -> str:
    """Write a rate over its interval, over its n where labels are missing."""
    if rate is None:
        return "-"
    interval = escape(f"[{100 * rate.low:.0f}, {100 * rate.high:.0f}]")
    return f"{rate.value:.0%}\n{interval}" + (f"\nn = {rate.n}" if rate.n != n else "")


def print_files(out: Path, others: str, *, keep_text: bool) -> None:
    """Print the names of the files in `out`, and whether there are texts among them."""
    texts = "answers-*.jsonl hold the full texts: do not publish them" if keep_text else "no texts"
    console.print(
        f"\nFiles in the folder below: {others}, and labels.jsonl (labels, scores and hashes; "
        f"{texts}).",
        highlight=False,
    )
    typer.echo(str(out))
