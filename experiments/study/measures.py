"""The measures of a cell; each gives plain data: labels, scores, hashes, no texts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import cna_lens
from cna_lens import InputError, Selection
from cna_lens.evidence import ActivationSets, bootstrap
from cna_lens.metrics import (
    Evaluation,
    Judge,
    factual_accuracy,
    judge,
    label,
    mmlu,
    refusal_log_odds,
    write_answers,
)
from cna_lens.results import circuit_size
from experiments.study.bench import Bench, check_not_empty
from experiments.study.cells import Cell, Discovery, block_texts

Values = dict[str, Any]
Measure = Callable[[Bench, Cell], Values]

FACTUAL_TASKS = ("capitals", "agreement")
MMLU = "cais/mmlu"


def answers(bench: Bench, cell: Cell) -> Values:
    """Refusals and quality of the answers to a block, and the log-odds of a refusal."""
    values, _ = _answered(bench, cell)
    return values | log_odds(bench, cell)


def log_odds(bench: Bench, cell: Cell) -> Values:
    """The log-odds of a refusal on a block: one forward pass for each prompt, and no answers."""
    with bench.steered(cell):
        found = refusal_log_odds(bench.model, block_texts(bench.study, bench.sources, cell))
    return {"log_odds": found}


def shown(bench: Bench, cell: Cell) -> Values:
    """Answers that are shown on the screen as they come, labelled, and forgotten."""
    values, texts = _answered(bench, cell)
    prompts = block_texts(bench.study, bench.sources, cell)
    for prompt, text in zip(prompts, texts, strict=True):
        bench.show(f"\n{cell}, multiplier {cell.steering.multiplier:g}\n> {prompt}\n{text}")
    return values


def judged(bench: Bench, cell: Cell) -> Values:
    """A judge's scores of the answers to a block; None, with a reason, where it gives none."""
    by = bench.study.judge
    if by is None:
        raise InputError("the study names no judge; add [judge] with model = ... to its settings")
    prompts = block_texts(bench.study, bench.sources, cell)
    values, texts = _answered(bench, cell)
    found = judge(prompts, texts, Judge(by.model, base_url=by.base_url))
    return {
        **values,
        "score": found.scores,
        "judged_refused": found.refused,
        "missing": found.missing,
    }


def circuit(bench: Bench, cell: Cell) -> Values:
    """A circuit, and the circuits of bootstrap resamples, by the contrast of two prompt sets.

    Resamples draw the same prompts on every model, so that circuits of two models can be compared
    resample by resample.
    """
    found = _discovery(cell)
    with _contrast(bench, found) as (contrast, selection):
        layout = contrast.layout
        neurons = selection.circuit(contrast.scores()).places.tolist()
        generator = torch.Generator().manual_seed(bench.study.seed)
        drawn = bootstrap(contrast, bench.study.n_resamples, generator)
        resampled = contrast.circuits(drawn, selection).tolist()
    if found.universal == "after":
        universal = bench.universal(found)
        excluded = set(layout.flat_all(universal.neurons).tolist())
        neurons, *resampled = (
            [flat for flat in row if flat not in excluded] for row in (neurons, *resampled)
        )
        check_not_empty(neurons)
    return {"neurons": neurons, "widths": list(layout.widths), "resampled": resampled}


def localization(bench: Bench, cell: Cell) -> Values:
    """The share of a circuit in late layers, as it is, by scale, and for shuffled labels."""
    n = bench.study.n_resamples
    return _over_resamples(bench, cell, cna_lens.localization, n_permutations=n)


def stability(bench: Bench, cell: Cell) -> Values:
    """The agreement of circuits from smaller discovery sets."""
    return _over_resamples(bench, cell, cna_lens.stability)


def capability(bench: Bench, cell: Cell) -> Values:
    """Questions answered rightly: drawn from MMLU, or the packaged factual ones."""
    study = bench.study
    with bench.steered(cell):
        if study.capability == "mmlu":
            n = min(study.mmlu_questions, study.limit or study.mmlu_questions)
            result = mmlu(bench.model, n=n, data_set=bench.sources.locate(MMLU), seed=study.seed)
            return {"right": list(result.outcomes), "ids": list(result.ids)}
        right: list[bool] = []
        for name in FACTUAL_TASKS:
            task = cna_lens.prompt_set(name)
            size = min(len(task.positive), study.limit or len(task.positive))
            sides = ("positive", "negative", "targets", "foils")
            part = replace(task, **{side: getattr(task, side)[:size] for side in sides})
            right += factual_accuracy(bench.model, part)
    return {"right": right}


MEASURES: Mapping[str, Measure] = {
    "answers": answers,
    "log_odds": log_odds,
    "shown": shown,
    "judged": judged,
    "circuit": circuit,
    "localization": localization,
    "stability": stability,
    "capability": capability,
}


def _answered(bench: Bench, cell: Cell) -> tuple[Values, list[str]]:
    prompts = block_texts(bench.study, bench.sources, cell)
    with bench.steered(cell):
        texts = cna_lens.generate(bench.model, prompts, max_new_tokens=bench.study.max_new_tokens)
    if bench.keep_text:
        write_answers(bench.folder / "texts" / f"{cell.key}.jsonl", prompts, texts)
    labelled: Evaluation = label(prompts, texts)
    values = {
        "refused": labelled.refused,
        "quality": labelled.scores("quality"),
        "words": [record.words for record in labelled.records],
        "prompt_ids": [record.prompt_id for record in labelled.records],
        "answers_sha256": [record.sha256 for record in labelled.records],
    }
    return values, texts


def _discovery(cell: Cell) -> Discovery:
    if cell.steering.discovery is None:
        raise InputError(f"the measure {cell.measure!r} needs a discovery; the cell has none")
    return cell.steering.discovery


def _over_resamples(
    bench: Bench, cell: Cell, evidence: Callable[..., Any], **options: int
) -> Values:
    study = bench.study
    with _contrast(bench, _discovery(cell)) as (contrast, selection):
        return evidence(
            contrast.positive,
            contrast.negative,
            selection,
            n_resamples=study.n_resamples,
            seed=study.seed,
            **options,
        ).record()


@contextmanager
def _contrast(bench: Bench, found: Discovery) -> Generator[tuple[ActivationSets, Selection]]:
    """Every prompt's activations, in files that end with the context, and the selection."""
    if found.ranking != "contrast":
        raise InputError(
            f"a circuit is resampled by the ranking 'contrast' only, not by {found.ranking!r}"
        )
    with tempfile.TemporaryDirectory(prefix="cna-lens-", dir=bench.folder) as folder:
        positive, negative = bench.activations(found, Path(folder))
        yield (
            ActivationSets(positive, negative),
            Selection(
                k=found.k or circuit_size(positive.layout.n_neurons, found.fraction),
                sign=found.sign,
                universal=bench.universal(found) if found.universal == "before" else None,
            ),
        )
