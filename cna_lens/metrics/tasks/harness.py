"""Run tasks of lm-eval, the language model evaluation harness, on a model as it is steered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cna_lens.errors import InputError
from cna_lens.metrics.tasks.harness_run import (
    Examples,
    Settings,
    check_runnable,
    load_tasks,
    run_loaded,
    warn_of_cut_inputs,
)
from cna_lens.metrics.tasks.harness_state import process_left_as_it_was
from cna_lens.metrics.tasks.task_result import TaskResult
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.running.batching import BatchSize


def run_lm_eval(
    model: HookedModel,
    tasks: str | Sequence[str] | Mapping[str, Sequence[int]],
    *,
    include_path: str | Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    chat: bool = False,
    add_bos_token: bool | None = None,
    batch_size: BatchSize = 8,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, TaskResult]:
    """Run tasks of lm-eval; inside `steer`, on the steered model.

    For instance, what a circuit is worth on ARC:

        before = run_lm_eval(model, "arc_easy")["arc_easy/acc"]
        with cna_lens.steer(model, circuit, multiplier=0.0):
            after = run_lm_eval(model, "arc_easy")["arc_easy/acc"]
        print(after.change_from(before))
        p_value = cna_lens.mcnemar(before.outcomes, after.outcomes)

    Metrics that are no mean over examples, such as perplexity, are left out. Only values and
    hashes are kept: neither questions nor answers. Model, tokenizer, random generators, logging
    and environment are afterwards what they were. Source: lm-evaluation-harness, Gao et al. 2024,
    https://github.com/EleutherAI/lm-evaluation-harness.

    Args:
        model: a TransformerBridge.
        tasks: names of tasks or groups; or the places of the examples to run in each task.
        include_path: a folder of your own task files (YAML), which takes the place of lm-eval's.
        limit: only the first examples of each task.
        num_fewshot: worked examples before each question; each task's own number by default.
        chat: put the prompts into the chat template.
        add_bos_token: begin texts with the BOS token. By default as `model.tokenizer` does, which
            TransformerLens makes begin with one even where the checkpoint's own does not; False
            then gives the figures that lm-eval gives on the checkpoint.
        batch_size: inputs at once; "auto" tries what the memory holds, which suits a GPU.
        seed: for drawing worked examples, and for sampling.
        progress: let lm-eval show its progress bars and messages.

    Returns:
        Results under "task/metric", such as "arc_easy/acc_norm" or, with the name of a filter,
        "gsm8k/exact_match,strict-match". A group gives the results of its tasks.

    Raises:
        CnaLensError: lm-eval is not installed.
        ModelError: the model is a HookedTransformer, which lm-eval cannot run.
        InputError: an unknown task, data that cannot be loaded, or bad settings.
        ActivationError: the model gave logits that are not numbers.

    Warns:
        CnaLensWarning: inputs were longer than the context, so that lm-eval cut their beginning.
    """
    settings = Settings(num_fewshot, chat, add_bos_token, batch_size, seed, progress)
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    examples = _checked_examples(tasks) if isinstance(tasks, Mapping) else None
    if not names:
        raise InputError("tasks is empty; name at least one task of lm-eval")
    if limit is not None and (examples is not None or limit < 1):
        raise InputError(
            f"limit is {limit}, expected at least 1, and none beside the examples of each task"
        )
    with process_left_as_it_was(seed, progress=progress) as cut:
        check_runnable(model, settings)
        loaded = load_tasks(names, include_path)
        if examples is not None:
            _check_places(loaded, examples)
        results = run_loaded(model, loaded, settings, examples=examples, limit=limit)
    warn_of_cut_inputs(model, cut.count)
    return results


def _checked_examples(tasks: Mapping[str, Sequence[int]]) -> Examples:
    for name, places in tasks.items():
        # lm-eval takes no places for all places.
        if not places or len(set(places)) < len(places) or min(places) < 0:
            raise InputError(
                f"the examples of {name} are {list(places)}, expected at least one place, each "
                "0 or above and given once"
            )
    # lm-eval takes the examples in the data set's order, and names them in the given one.
    return {name: sorted(places) for name, places in tasks.items()}


def _check_places(tasks: Mapping[str, Any], examples: Examples) -> None:
    if tasks.keys() != examples.keys():
        groups = sorted(examples.keys() - tasks.keys())
        raise InputError(
            f"{', '.join(groups)} is a group; give the places in each of its tasks instead"
        )
    for name, places in examples.items():
        if places[-1] >= (n := len(tasks[name].eval_docs)):
            raise InputError(f"{name} has examples 0 to {n - 1}, and {places[-1]} was asked for")
