"""Prompts answered unsteered, steered and with a random control: their files and their table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from cna_lens.cli.render import progress_console
from cna_lens.errors import JudgeError
from cna_lens.metrics.answer_labels import Evaluation
from cna_lens.metrics.answer_texts import forget_answers
from cna_lens.metrics.compliance import labels_sha256
from cna_lens.metrics.conditions import Answered, save_labels
from cna_lens.metrics.evaluation import UnjudgedError, evaluate
from cna_lens.metrics.judging.judge import Judge
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.running.batching import BatchSize
from cna_lens.models.trial.trial import tried, what_is_slower
from cna_lens.report.runs import Run, Setting
from cna_lens.results.circuit import Circuit
from cna_lens.results.journal import Journal
from cna_lens.steering.methods.controls import matched_random

Option = Setting | Path | Sequence[str]
FINISHED = "finished.jsonl"
SECONDS = "seconds"


@dataclass(frozen=True)
class Condition:
    """How a model is steered while it answers.

    Attributes:
        name: in tables; the name of a control begins with "random control".
        file_part: part of the name of the file with the answers' texts.
        steering: gives the context in which the model answers.
        circuit: the neurons that are steered.
    """

    name: str
    file_part: str
    steering: Callable[[], AbstractContextManager[Any]]
    circuit: Circuit | None = None


UNSTEERED = Condition("unsteered, m = 1", "unsteered", nullcontext)


@dataclass(frozen=True)
class Answering:
    """How prompts are answered, as for `evaluate`."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1
    chat: Chat = "auto"
    batch_size: BatchSize = "auto"

    def settings(self) -> dict[str, Setting]:
        """What answers depend on, besides the prompts' tokens."""
        names = "max_new_tokens", "temperature", "top_p", "seed", "samples"
        return {name: getattr(self, name) for name in names}


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
            partial(steering, neurons),
            neurons,
        )
        for each, neurons in ((name, circuit), ("random control", control))
    ]


def answer_under_conditions(
    model: HookedModel,
    conditions: Sequence[Condition],
    prompts: Mapping[str, Sequence[Prompt]],
    out: Path,
    answering: Answering,
    *,
    command: str,
    settings: Mapping[str, Setting],
    keep_text: bool,
    started: float,
    judge: Judge | None = None,
    resumable: bool = False,
) -> list[Answered]:
    """Answer each kind of prompts under each condition, and write labels.jsonl and run.json.

    Texts that an earlier run has kept in the folder are deleted if this one keeps none.

    Args:
        model: a TransformerBridge or HookedTransformer.
        conditions: what is done to it, one after the other.
        prompts: the prompts of each kind.
        out: the folder of the files.
        answering: how prompts are answered.
        command: for run.json, from `command_line`.
        settings: for run.json, what the answers depend on besides `answering`.
        keep_text: also write the texts of each condition, such as answers-unsteered.jsonl.
        started: start of the command, by `time.perf_counter`.
        judge: a model to judge whether answers comply.
        resumable: keep the labels of each finished answer in finished.jsonl, and go on from them.

    Raises:
        InputError: the folder has the finished answers of another command.
        JudgeError: the judge failed. labels.jsonl then holds the labels so far, without the judge's
            of the last condition.
    """
    for condition in conditions:
        # What cannot be steered is refused before anything is answered.
        with condition.steering():
            pass
    texts = [text for kind in prompts.values() for text in kind]
    run = Run(
        command=command,
        model=model_name(model),
        weights_sha256=weights_hash(model),
        prompts={
            kind: encode(model, texts, chat=answering.chat).record
            for kind, texts in prompts.items()
        },
        settings={
            **settings,
            **answering.settings(),
            "judge": None if judge is None else judge.model,
        },
        seconds=0.0,
        date="",
        slower=what_is_slower(tried(model)),
    )
    journal = _journal(run, conditions, judge, out) if resumable else None
    n_answers = len(texts) * answering.samples * len(conditions)
    was_finished = journal is not None and len(journal.keys() - {SECONDS}) == n_answers
    if not keep_text and (gone := forget_answers(out)):
        progress_console.print(f"Deleted the texts of an earlier run: {', '.join(gone)}")
    cells: list[Answered] = []
    for condition in conditions:
        progress_console.print(f"Answering {len(texts)} prompts: {condition.name}")
        try:
            with condition.steering():
                evaluation = evaluate(
                    model,
                    texts,
                    **vars(answering),
                    judge=judge,
                    keep_text=keep_text,
                    text_path=out / f"answers-{condition.file_part}.jsonl" if keep_text else None,
                    journal=journal,
                    condition=condition.name,
                    progress=True,
                )
        except KeyboardInterrupt:
            if journal is not None:
                _seconds_since(started, journal)
                progress_console.print(
                    f"{len(journal) - 1} answers are finished and kept in {out / FINISHED}; run "
                    "the same command again to go on"
                )
            raise
        except UnjudgedError as error:
            _seconds_since(started, journal)
            cells += _by_kind(condition.name, prompts, error.evaluation)
            save_labels(cells, out / "labels.jsonl")
            raise JudgeError(
                f"{error.__cause__}; {out / 'labels.jsonl'} holds the labels of answers up to "
                f"{condition.name}, of which the last lack compliance"
            ) from error
        cells += _by_kind(condition.name, prompts, evaluation)
    save_labels(cells, out / "labels.jsonl")
    ended = datetime.now(UTC).date().isoformat()
    if journal is not None and was_finished and SECONDS in journal:
        seconds = float(journal[SECONDS]["seconds"])
    else:
        seconds = _seconds_since(started, journal)
    replace(run, seconds=seconds, date=ended).save(out / "run.json")
    return cells


def _journal(run: Run, conditions: Sequence[Condition], judge: Judge | None, out: Path) -> Journal:
    """Open the file of finished answers, which is refused if another command gave them."""
    depends_on = {
        "model": run.model,
        "weights_sha256": run.weights_sha256,
        "prompts": {kind: record.sha256 for kind, record in run.prompts.items()},
        "conditions": {
            each.name: None if each.circuit is None else sorted(map(str, each.circuit))
            for each in conditions
        },
        "labels_sha256": labels_sha256(),
        "judge_id": None if judge is None else judge.judge_id,
        "versions": dict(run.versions),
        **run.settings,
    }
    journal = Journal(out / FINISHED, "evaluation", depends_on)
    if n_finished := len(journal.keys() - {SECONDS}):
        progress_console.print(f"{n_finished} answers are finished: {out / FINISHED}")
    return journal


def _seconds_since(started: float, journal: Journal | None) -> float:
    """The seconds of this run, and of those that it goes on from."""
    seconds = time.perf_counter() - started
    if journal is not None:
        seconds += journal.get(SECONDS, {"seconds": 0.0})["seconds"]
        journal.add(SECONDS, {"seconds": seconds})
    return seconds


def _by_kind(
    condition: str, prompts: Mapping[str, Sequence[Prompt]], evaluation: Evaluation
) -> Iterator[Answered]:
    records = iter(evaluation.records)
    n_samples = len(evaluation) // sum(map(len, prompts.values()))
    for kind, its_prompts in prompts.items():
        of_kind = tuple(islice(records, len(its_prompts) * n_samples))
        yield Answered(condition, kind, Evaluation(of_kind))


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
