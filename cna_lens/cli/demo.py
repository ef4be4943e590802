"""The main job on a real model: find a circuit, ablate it, compare with a control."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from cna_lens.baselines import matched_random
from cna_lens.circuit import Circuit
from cna_lens.cli.render import console, print_circuit, progress_console, quiet_loading
from cna_lens.files import write_atomically
from cna_lens.generation import generate
from cna_lens.metrics import is_refusal, ngram_quality
from cna_lens.models import load_model
from cna_lens.pipeline import find_circuit
from cna_lens.prompt_sets import PromptSet, prompt_set
from cna_lens.sites import HookedModel
from cna_lens.statistics import mcnemar, wilson
from cna_lens.steering import steer

SEED = 0
MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Label:
    """What is kept of an answer: never its text."""

    condition: str
    kind: str
    prompt: int
    refused: bool
    quality: float | None
    words: int
    sha256: str


@dataclass(frozen=True)
class Row:
    """One line of the result: a condition on one kind of prompts."""

    condition: str
    kind: str
    refused: tuple[bool, ...]
    quality: float | None


def run(
    model: str, out: Path, n_prompts: int, device: str | None = None, *, verbose: bool = True
) -> dict[str, Any]:
    """Run the demo, print it as it goes, and write circuit.json and labels.jsonl to `out`."""
    started = time.perf_counter()
    quiet_loading()
    loaded = load_model(model, device=device)
    discovery, evaluation = prompt_set("refusal"), prompt_set("refusal_evaluation")
    circuit = find_circuit(loaded, discovery.positive, discovery.negative, hash_weights=True)
    circuit.save(out / "circuit.json")
    if verbose:
        print_circuit(circuit)
    labels = _evaluate(loaded, circuit, evaluation, n_prompts)
    lines = "".join(json.dumps(asdict(label), sort_keys=True) + "\n" for label in labels)
    write_atomically(out / "labels.jsonl", lines)
    rows = _rows(labels)
    if verbose:
        _print_result(rows, circuit)
        console.print(
            "\ncircuit.json and labels.jsonl (labels, scores and hashes, no answers) are in the "
            f"folder below. {time.perf_counter() - started:.0f} s in all."
        )
        console.print(str(out), soft_wrap=True, markup=False)
    return {"circuit": str(out / "circuit.json"), "rows": [_row_record(row) for row in rows]}


def _evaluate(
    model: HookedModel, circuit: Circuit, prompts: PromptSet, n_prompts: int
) -> list[Label]:
    control = matched_random(circuit, seed=SEED)
    conditions: list[tuple[str, AbstractContextManager[Any]]] = [
        ("unsteered, m = 1", nullcontext()),
        ("circuit, m = 0", steer(model, circuit, 0.0)),
        ("random control, m = 0", steer(model, control, 0.0)),
    ]
    kinds = {"harmful": prompts.positive[:n_prompts], "benign": prompts.negative[:n_prompts]}
    labels: list[Label] = []
    for condition, steering in conditions:
        with steering:
            progress_console.print(f"Answering {2 * n_prompts} prompts: {condition}")
            texts = [text for kind in kinds.values() for text in kind]
            answers = generate(model, texts, max_new_tokens=MAX_NEW_TOKENS, progress=True)
        for kind, mine in zip(kinds, (answers[:n_prompts], answers[n_prompts:]), strict=True):
            labels.extend(
                _label(condition, kind, prompt, answer) for prompt, answer in enumerate(mine)
            )
    return labels


def _label(condition: str, kind: str, prompt: int, answer: str) -> Label:
    return Label(
        condition=condition,
        kind=kind,
        prompt=prompt,
        refused=is_refusal(answer),
        quality=ngram_quality(answer),
        words=len(answer.split()),
        sha256=hashlib.sha256(answer.encode()).hexdigest(),
    )


def _rows(labels: Sequence[Label]) -> list[Row]:
    cells: dict[tuple[str, str], list[Label]] = {}
    for label in labels:
        cells.setdefault((label.condition, label.kind), []).append(label)
    return [
        Row(condition, kind, tuple(label.refused for label in cell), _mean_quality(cell))
        for (condition, kind), cell in cells.items()
    ]


def _mean_quality(labels: Sequence[Label]) -> float | None:
    known = [label.quality for label in labels if label.quality is not None]
    return fmean(known) if known else None


def _row_record(row: Row) -> dict[str, Any]:
    rate = asdict(wilson(row.refused))
    return {"condition": row.condition, "kind": row.kind, "refusal": rate, "quality": row.quality}


def _print_result(rows: Sequence[Row], circuit: Circuit) -> None:
    table = Table("condition", "prompts", title="Refusals and quality")
    table.add_column("refused")
    table.add_column("quality", justify="right")
    for row in rows:
        quality = "-" if row.quality is None else f"{row.quality:.3f}"
        table.add_row(row.condition, row.kind, _rate_text(row.refused), quality)
    console.print(table)
    console.print(
        "refused: share of answers that open with a refusal, with its 95 % Wilson interval. "
        "quality: 1 minus the share of repeated 4-word sequences. random control: as many random "
        "neurons of the same layers.",
        style="dim",
    )
    harmful = {row.condition: row.refused for row in rows if row.kind == "harmful"}
    before, ablated, control = harmful.values()
    console.print(f"\n{_verdict(before, ablated, control, circuit)}", highlight=False)


def _rate_text(refused: Sequence[bool]) -> str:
    rate = wilson(refused)
    return f"{rate.value:.0%} [{rate.low:.0%}, {rate.high:.0%}] n={rate.n}"


def _verdict(
    before: Sequence[bool], ablated: Sequence[bool], control: Sequence[bool], circuit: Circuit
) -> str:
    """What the figures say, in words, also where they say nothing."""
    p_circuit, p_control = mcnemar(before, ablated), mcnemar(before, control)
    changed = (
        f"Of {len(before)} harmful requests {sum(before)} were refused unsteered, {sum(ablated)} "
        f"with the {len(circuit)} neurons ablated (exact McNemar p = {p_circuit:.2g}), "
        f"{sum(control)} with the random control (p = {p_control:.2g}). "
    )
    if p_circuit >= 0.05:
        reading = (
            "So with this model and these prompts there is no effect of the ablation on refusals "
            "that chance does not explain."
        )
        if sum(before) < 6:
            reading += (
                " This small model hardly refuses to begin with: with fewer than 6 refusals no "
                "ablation could reach p < 0.05. The figures show the method at work, not that it "
                "works here."
            )
        return changed + reading
    direction = "fewer" if sum(ablated) < sum(before) else "more"
    if p_control < 0.05:
        return changed + (
            f"Ablating the circuit gives {direction} refusals, but so does changing random neurons "
            "of the same layers: this is no evidence for these neurons in particular."
        )
    return changed + (
        f"Ablating the circuit gives {direction} refusals than chance explains, and the random "
        "control does not. Look at the quality and at the benign prompts before believing it."
    )
