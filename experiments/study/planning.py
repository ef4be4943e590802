"""Estimate the remaining work of a run without a model: cells, passes, tokens, memory, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import cna_lens
from cna_lens.results import Journal
from experiments.study.cells import Cell, Discovery, block_texts
from experiments.study.measures import FACTUAL_TASKS
from experiments.study.settings import Study
from experiments.study.sources import Sources

TOKENS_PER_WORD = 1.4
TEMPLATE_TOKENS = 25
QUESTION_TOKENS = 120
READ_PER_WRITTEN = 8
"""Number of tokens read in the time of one written token."""


@dataclass(frozen=True)
class Cost:
    """The cost of a piece of work.

    Attributes:
        passes: number of prompts that run through the model.
        read: tokens in them.
        written: tokens generated, at most.
    """

    passes: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(
            self.passes + other.passes, self.read + other.read, self.written + other.written
        )

    @property
    def work(self) -> float:
        """The cost in written tokens."""
        return self.written + self.read / READ_PER_WRITTEN


def cost(study: Study, sources: Sources, cell: Cell) -> Cost:
    """The cost of a cell without its discovery; tokens are estimated from words."""
    if cell.measure in ("answers", "log_odds", "judged", "shown"):
        prompts = block_texts(study, sources, cell)
        once = Cost(len(prompts), _tokens(prompts))
        if cell.measure == "log_odds":
            return once
        answered = replace(once, written=len(prompts) * study.max_new_tokens)
        return answered + once if cell.measure == "answers" else answered
    if cell.measure == "capability":
        if study.capability == "mmlu":
            n = min(study.mmlu_questions, study.limit or study.mmlu_questions)
            return Cost(n, n * QUESTION_TOKENS)
        sets = [cna_lens.prompt_set(name) for name in FACTUAL_TASKS]
        asked = [text for each in sets for text in (*each.positive, *each.negative)]
        return Cost(2 * len(asked), 2 * _tokens(asked))
    found = cell.steering.discovery
    return Cost() if found is None else _discovery_cost(found)


def discoveries(cells: Sequence[Cell]) -> set[tuple[str, str, Discovery]]:
    """The discoveries that cells need, once for each model: scores and vectors for any use."""
    return {
        (cell.model, cell.dtype, Discovery(found.prompts, found.ranking, chat=found.chat))
        for cell in cells
        if (found := cell.steering.discovery) is not None
    }


def show_plan(
    study: Study, sources: Sources, cells: Sequence[Cell], journal: Journal, console: Console
) -> None:
    """Print the remaining work.

    Args:
        study: the settings.
        sources: where prompts come from.
        cells: those of the experiments.
        journal: the finished cells.
        console: takes the table.
    """
    wanted = {cell.key: cell for cell in cells}
    missing = [cell for key, cell in wanted.items() if key not in journal]
    table = Table("to do", title=f"{len(missing)} of {len(wanted)} cells are to be measured")
    for name in ("cells", "passes", "tokens read", "written"):
        table.add_column(name, justify="right")
    groups: dict[str, list[Cell]] = {}
    for cell in missing:
        groups.setdefault(str(replace(cell, block=0)).replace(" block 0", ""), []).append(cell)
    total = Cost()
    work: dict[tuple[str, str], float] = {}
    for name, group in groups.items():
        each = sum((cost(study, sources, cell) for cell in group), Cost())
        _add(table, name, str(len(group)), each)
        total += each
        model = (group[0].model, group[0].dtype)
        work[model] = work.get(model, 0.0) + each.work
    for model, dtype, found in sorted(discoveries(missing), key=str):
        each = _discovery_cost(found)
        _add(table, f"discovery, {model}, {found.ranking} of {found.prompts}", "", each)
        total += each
        work[model, dtype] = work.get((model, dtype), 0.0) + each.work
    _add(table, "all", str(len(missing)), total)
    console.print(table)
    console.print(_memory(study, list(work)), highlight=False)
    console.print(_time(study, sources, work, journal, wanted), highlight=False)
    console.print(
        f"Tokens are estimated: {TOKENS_PER_WORD} a word and {TEMPLATE_TOKENS} for a template; "
        "answers that end sooner write fewer.",
        style="dim",
        highlight=False,
    )


def seconds_per_work(
    study: Study, sources: Sources, journal: Journal, wanted: dict[str, Cell], model: str
) -> float | None:
    """Seconds per written token: measured on this study's cells, or else from the settings."""
    done = [cell for key, cell in wanted.items() if key in journal and cell.model == model]
    work = sum(cost(study, sources, cell).work for cell in done)
    if work:
        return sum(journal[cell.key]["provenance"]["seconds"] for cell in done) / work
    rates = [pair.tokens_per_second for pair in study.pairs if model in (pair.instruct, pair.base)]
    return 1 / rates[0] if rates and rates[0] else None


def _time(
    study: Study,
    sources: Sources,
    work: dict[tuple[str, str], float],
    journal: Journal,
    wanted: dict[str, Cell],
) -> str:
    seconds = 0.0
    for (model, _), amount in work.items():
        rate = seconds_per_work(study, sources, journal, wanted, model)
        if rate is None:
            return (
                f"Time: unknown until a cell of {model} is finished; set tokens_per_second in "
                "the settings for an estimate"
            )
        seconds += rate * amount
    return f"Time: about {seconds / 60:.0f} min"


def _memory(study: Study, models: list[tuple[str, str]]) -> str:
    names = {model for model, _ in models}
    pairs = [pair for pair in study.pairs if {pair.instruct, pair.base} & names]
    unknown = [pair.name for pair in pairs if pair.memory_gib is None]
    known = [(pair.memory_gib, pair.devices or 1, pair.name) for pair in pairs if pair.memory_gib]
    if not known:
        return f"Memory: not given for {', '.join(unknown)}" if unknown else "Memory: none"
    most, devices, name = max(known)
    rest = f"; not given for {', '.join(unknown)}" if unknown else ""
    return f"Memory: {most:g} GiB at most ({name}, on {devices} device(s)){rest}"


def _discovery_cost(found: Discovery) -> Cost:
    prompts = cna_lens.prompt_set(found.prompts)
    texts = [*prompts.positive, *prompts.negative, *cna_lens.diverse_prompts()]
    return Cost(len(texts), _tokens(texts))


def _tokens(texts: Sequence[str]) -> int:
    words = sum(len(text.split()) for text in texts)
    return round(TOKENS_PER_WORD * words) + TEMPLATE_TOKENS * len(texts)


def _add(table: Table, name: str, cells: str, each: Cost) -> None:
    table.add_row(escape(name), cells, f"{each.passes:,}", f"{each.read:,}", f"{each.written:,}")
