"""The same prompts, answered unsteered, with a circuit scaled, and with a random control scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cna_lens.cli.render import console, progress_console
from cna_lens.metrics.conditions import Answered, save_labels
from cna_lens.metrics.evaluation import Evaluation, evaluate
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.results.circuit import Circuit
from cna_lens.steering.methods.controls import matched_random
from cna_lens.steering.scaling import steer

CONTROL_SEED = 0


@dataclass(frozen=True)
class Condition:
    """What is done to a model while it answers.

    Attributes:
        name: in tables; that of a control begins with "random control".
        file_part: of the name of the file with its texts, where these are kept.
        steering: entered while the model answers.
    """

    name: str
    file_part: str
    steering: AbstractContextManager[Any]


UNSTEERED = Condition("unsteered, m = 1", "unsteered", nullcontext())


def scaled(
    model: HookedModel, circuit: Circuit, multiplier: float, *, allow_other_model: bool = False
) -> list[Condition]:
    """A circuit scaled, and as many random neurons of the same layers."""
    control = matched_random(circuit, seed=CONTROL_SEED)
    return [
        Condition(
            f"{name}, m = {multiplier:g}",
            name.replace(" ", "-"),
            steer(model, neurons, multiplier, allow_other_model=allow_other_model),
        )
        for name, neurons in (("circuit", circuit), ("random control", control))
    ]


def answer_under_conditions(
    model: HookedModel,
    conditions: Sequence[Condition],
    prompts: Mapping[str, Sequence[Prompt]],
    out: Path,
    *,
    max_new_tokens: int,
    keep_text: bool,
) -> list[Answered]:
    """Answer each kind of prompts under each condition, and write labels.jsonl to `out`.

    With `keep_text` the answers go to a file for each condition, answers-unsteered.jsonl and so on.
    """
    texts = [text for kind in prompts.values() for text in kind]
    cells: list[Answered] = []
    for condition in conditions:
        progress_console.print(f"Answering {len(texts)} prompts: {condition.name}")
        with condition.steering:
            evaluation = evaluate(
                model,
                texts,
                max_new_tokens=max_new_tokens,
                keep_text=keep_text,
                text_path=out / f"answers-{condition.file_part}.jsonl" if keep_text else None,
                progress=True,
            )
        records = iter(evaluation.records)
        for kind, its_prompts in prompts.items():
            mine = tuple(next(records) for _ in its_prompts)
            cells.append(Answered(condition.name, kind, Evaluation(mine)))
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


def print_cells(cells: Sequence[Answered], note: str = "") -> None:
    """A table of refusal rates and quality, and what columns and conditions mean."""
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
    control = "random control: as many random neurons of the same layers. "
    console.print(
        "refused: share of answers that open with a refusal, with its 95 % Wilson interval. "
        "quality: 1 minus the share of repeated 4-word sequences. "
        + (control if any(cell.is_control for cell in cells) else "")
        + note,
        style="dim",
    )


def print_files(out: Path, *, keep_text: bool, others: str = "") -> None:
    """Where the labels are, and whether there are texts with them."""
    texts = "answers-*.jsonl hold the full texts: do not publish them" if keep_text else "no texts"
    console.print(
        f"\n{others}labels.jsonl (labels, scores and hashes; {texts}) in the folder below."
    )
    console.print(str(out), soft_wrap=True, markup=False)
