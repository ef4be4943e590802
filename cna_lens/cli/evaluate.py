"""The command `evaluate`: answers to prompts, unsteered, steered, and with a control."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cna_lens.cli.conditions import (
    UNSTEERED,
    Answering,
    answer_under_conditions,
    beside_control,
    command_line,
)
from cna_lens.cli.options import (
    Precision,
    chat_of,
    check_folder,
    load_quietly,
    prompts_at_once,
    read_source,
)
from cna_lens.cli.rates import cell_record, print_cells, print_files
from cna_lens.cli.render import console, print_json
from cna_lens.metrics.conditions import Answered
from cna_lens.metrics.judging.judge import Judge, check_judge
from cna_lens.models.running.positions import Positions
from cna_lens.models.running.request import check_settings
from cna_lens.results.circuit import Circuit
from cna_lens.steering.scaling import check_multiplier, steer


@dataclass(frozen=True)
class Asked:
    """The options of the command, by name."""

    model: str
    prompts: str
    out: Path
    circuit: Path | None
    multiplier: float
    positions: Positions
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    samples: int
    chat: bool | None
    system: str | None
    template_option: list[str] | None
    batch_size: int | None
    dtype: Precision
    device: str | None
    allow_other_model: bool
    judge: str | None
    judge_url: str | None
    keep_text: bool

    def check(self) -> None:
        """Raise InputError for what can be seen before a model is loaded."""
        check_folder(self.out)
        check_multiplier(self.multiplier)
        check_settings(self.max_new_tokens, self.temperature, self.top_p, self.samples)

    def read_judge(self) -> Judge | None:
        """The judge, if it can be asked."""
        if self.judge is None:
            return None
        judge = Judge(self.judge, base_url=self.judge_url, cache=self.out / "judgements.cache")
        check_judge(judge)
        return judge

    def command(self) -> str:
        """The command as it would be typed again."""
        options = asdict(self)
        options["no_chat"] = options.pop("chat") is False
        return command_line("evaluate", options | {"chat": self.chat is True})

    def answering(self) -> Answering:
        """How prompts are answered."""
        return Answering(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            samples=self.samples,
            chat=chat_of(self.chat, self.system, self.template_option),
            batch_size=prompts_at_once(self.batch_size),
        )


def run(asked: Asked, *, as_json: bool) -> None:
    """Answer under each condition, write labels and run, and print rates and tests."""
    started = time.perf_counter()
    asked.check()
    prompts, answering = read_source(asked.prompts), asked.answering()
    circuit = None if asked.circuit is None else Circuit.load(asked.circuit)
    judge = asked.read_judge()
    model = load_quietly(asked.model, asked.device, asked.dtype)
    conditions = [UNSTEERED]
    if circuit is not None:
        how = partial(
            steer,
            model,
            multiplier=asked.multiplier,
            positions=asked.positions,
            allow_other_model=asked.allow_other_model,
        )
        conditions += beside_control("circuit", circuit, f"m = {asked.multiplier:g}", how)
    cells = answer_under_conditions(
        model,
        conditions,
        {"given": prompts},
        asked.out,
        answering,
        command=asked.command(),
        settings={"multiplier": asked.multiplier, "positions": asked.positions},
        keep_text=asked.keep_text,
        started=started,
        judge=judge,
        resumable=True,
    )
    _show(asked, cells, as_json=as_json)


def _show(asked: Asked, cells: list[Answered], *, as_json: bool) -> None:
    unsteered, *others = cells
    before = unsteered.evaluation
    refusals = {each.condition: each.evaluation.refusal_p_value(before) for each in others}
    compliance = {each.condition: each.evaluation.compliance_p_value(before) for each in others}
    if as_json:
        record: dict[str, Any] = {"labels": str(asked.out / "labels.jsonl")}
        record["rows"] = [cell_record(cell) for cell in cells]
        print_json(record | {"mcnemar_p": refusals, "compliance_mcnemar_p": compliance})
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
    print_files(asked.out, "run.json, finished.jsonl", keep_text=asked.keep_text)
