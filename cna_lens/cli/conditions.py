"""The same prompts, answered unsteered, with a circuit scaled, and with a random control scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from cna_lens.baselines import matched_random
from cna_lens.circuit import Circuit
from cna_lens.cli.render import console, progress_console
from cna_lens.metrics import Answered, Evaluation, evaluate, save_labels
from cna_lens.prompts import Prompt
from cna_lens.sites import HookedModel
from cna_lens.steering import steer

CONTROL_SEED = 0


def answer_under_conditions(
    model: HookedModel,
    circuit: Circuit | None,
    multiplier: float,
    prompts: Mapping[str, Sequence[Prompt]],
    out: Path,
    *,
    max_new_tokens: int,
    keep_text: bool,
    allow_other_model: bool = False,
) -> list[Answered]:
    """Answer each kind of prompts under each condition, and write labels.jsonl to `out`.

    Without a circuit there is one condition, the unsteered one. With `keep_text` the answers go to
    a file for each condition, answers-unsteered.jsonl and so on.
    """
    conditions: list[tuple[str, str, AbstractContextManager[Any]]] = [
        ("unsteered, m = 1", "unsteered", nullcontext())
    ]
    if circuit is not None:
        control = matched_random(circuit, seed=CONTROL_SEED)
        for name, neurons in (("circuit", circuit), ("random control", control)):
            steering = steer(model, neurons, multiplier, allow_other_model=allow_other_model)
            file_part = name.replace(" ", "-")
            conditions.append((f"{name}, m = {multiplier:g}", file_part, steering))
    texts = [text for kind in prompts.values() for text in kind]
    cells: list[Answered] = []
    for condition, file_part, steering in conditions:
        progress_console.print(f"Answering {len(texts)} prompts: {condition}")
        with steering:
            evaluation = evaluate(
                model,
                texts,
                max_new_tokens=max_new_tokens,
                keep_text=keep_text,
                text_path=out / f"answers-{file_part}.jsonl" if keep_text else None,
                progress=True,
            )
        records = iter(evaluation.records)
        for kind, its_prompts in prompts.items():
            mine = tuple(next(records) for _ in its_prompts)
            cells.append(Answered(condition, kind, Evaluation(mine)))
    save_labels(cells, out / "labels.jsonl")
    return cells


def cell_record(cell: Answered) -> dict[str, Any]:
    """A cell as plain data."""
    quality = cell.evaluation.quality
    return {
        "condition": cell.condition,
        "kind": cell.kind,
        "refusal": asdict(cell.evaluation.refusal_rate),
        "quality": None if quality is None else asdict(quality),
    }


def print_cells(cells: Sequence[Answered]) -> None:
    """A table of refusal rates and quality, and what the columns mean."""
    table = Table("condition", "prompts", title="Refusals and quality")
    table.add_column("refused")
    table.add_column("quality", justify="right")
    for cell in cells:
        rate, quality = cell.evaluation.refusal_rate, cell.evaluation.quality
        table.add_row(
            cell.condition,
            cell.kind,
            f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}] n={rate.n}",
            "-" if quality is None else f"{quality.value:.3f}",
        )
    console.print(table)
    control = "random control: as many random neurons of the same layers."
    console.print(
        "refused: share of answers that open with a refusal, with its 95 % Wilson interval. "
        "quality: 1 minus the share of repeated 4-word sequences. "
        + (control if any("control" in cell.condition for cell in cells) else ""),
        style="dim",
    )


def print_files(out: Path, *, keep_text: bool, others: str = "") -> None:
    """Where the labels are, and whether there are texts with them."""
    texts = "answers-*.jsonl hold the full texts: do not publish them" if keep_text else "no texts"
    console.print(
        f"\n{others}labels.jsonl (labels, scores and hashes; {texts}) in the folder below."
    )
    console.print(str(out), soft_wrap=True, markup=False)
