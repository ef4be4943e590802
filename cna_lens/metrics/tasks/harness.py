"""Run tasks of lm-eval, the language model evaluation harness, on a model, steered or not."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
from torch import Tensor

from cna_lens.errors import ActivationError, CnaLensError, CnaLensWarning, InputError, ModelError
from cna_lens.metrics.tasks.harness_state import process_left_as_it_was, weights_left_as_they_are
from cna_lens.metrics.tasks.task_result import TaskResult
from cna_lens.models.hooked_model import HookedModel, check_model, is_bridge, model_name
from cna_lens.models.running.batching import BatchSize, check_batch_size
from cna_lens.models.running.positions import PositionTracker

Tasks = dict[str, Any]
Examples = dict[str, list[int]]


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

    For instance, the effect of a circuit on ARC:

        before = run_lm_eval(model, "arc_easy")["arc_easy/acc"]
        with cna_lens.steer(model, circuit, multiplier=0.0):
            after = run_lm_eval(model, "arc_easy")["arc_easy/acc"]
        print(after.change_from(before))
        p_value = cna_lens.mcnemar(before.outcomes, after.outcomes)

    Metrics that are not means over examples, such as perplexity, are left out. Results hold values
    and hashes, but neither questions nor answers. The model, its tokenizer, random generators,
    logging and the environment are restored afterwards. Source: lm-evaluation-harness, Gao et al.
    2024, https://github.com/EleutherAI/lm-evaluation-harness.

    Args:
        model: a TransformerBridge.
        tasks: names of tasks or groups; or, for each task, the indices of the examples to run.
        include_path: a folder with your own task files (YAML), used instead of lm-eval's.
        limit: run only so many examples of each task, from the first on.
        num_fewshot: number of worked examples before each question; by default the task's own.
        chat: put the prompts into the chat template.
        add_bos_token: begin texts with the BOS token. The default follows `model.tokenizer`, to
            which TransformerLens adds a BOS token even if the checkpoint's tokenizer has none.
            False then gives the figures that lm-eval gives on the checkpoint.
        batch_size: inputs in one batch; "auto" finds the largest that fits, which suits a GPU.
        seed: seed for drawing worked examples, and for sampling.
        progress: show lm-eval's progress bars and messages.

    Returns:
        Results under "task/metric", such as "arc_easy/acc_norm", or under "task/metric,filter",
        such as "gsm8k/exact_match,strict-match". A group gives the results of its tasks.

    Raises:
        CnaLensError: lm-eval is not installed.
        ModelError: the model is a HookedTransformer, which lm-eval cannot run.
        InputError: a task is unknown, its data cannot be loaded, or a setting is invalid.
        ActivationError: the model gave logits that are not numbers.

    Warns:
        CnaLensWarning: lm-eval cut the beginning of inputs that were longer than the context.
    """
    settings = Settings(num_fewshot, chat, add_bos_token, batch_size, seed, progress)
    names = [tasks] if isinstance(tasks, str) else list(tasks)
    examples = _sorted_examples(tasks) if isinstance(tasks, Mapping) else None
    if not names:
        raise InputError("tasks is empty; name at least one task of lm-eval")
    if limit is not None and (examples is not None or limit < 1):
        raise InputError(
            f"limit is {limit}, expected at least 1, and no limit if tasks gives the examples"
        )

    def load() -> tuple[Tasks, Examples | None]:
        loaded = load_tasks(names, include_path)
        if examples is not None:
            _check_examples(loaded, examples)
        return loaded, examples

    return run_tasks(model, load, settings, limit)


@dataclass(frozen=True)
class Settings:
    """Settings of a run, as in `run_lm_eval`."""

    num_fewshot: int | None
    chat: bool
    add_bos_token: bool | None
    batch_size: BatchSize
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        """Reject values that lm-eval would misinterpret."""
        check_batch_size(self.batch_size)
        if not isinstance(cast("object", self.chat), bool):
            raise InputError(
                f"chat is {self.chat!r}, expected True or False, since lm-eval itself puts prompts "
                "into the chat template"
            )
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise InputError(f"num_fewshot is {self.num_fewshot}, expected 0 or above")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")


def run_tasks(
    model: HookedModel,
    load: Callable[[], tuple[Tasks, Examples | None]],
    settings: Settings,
    limit: int | None = None,
) -> dict[str, TaskResult]:
    """Run tasks of lm-eval, and restore what it changes in the process and in the model.

    Args:
        model: a TransformerBridge.
        load: returns the tasks, and the indices of the examples to run in ascending order, None
            for all examples. It is called after the model was checked.
        settings: the settings of the run.
        limit: run only so many examples of each task.

    Raises:
        CnaLensError: lm-eval is not installed.
        ModelError: the model wraps no Hugging Face model.
        InputError: the model has no tokenizer, or no chat template though one is needed.
        ActivationError: the model gave logits that are not numbers.
    """
    with process_left_as_it_was(settings.seed, progress=settings.progress) as cut:
        _check_runnable(model, settings)
        from lm_eval.evaluator import evaluate

        tasks, examples = load()
        _check_steered_positions(model, tasks)
        _set_fewshot(tasks, settings)
        found = evaluate(
            _language_model(model, settings),
            cast("Any", {"tasks": tasks, "groups": {}}),
            samples=examples,
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=settings.chat,
            fewshot_as_multiturn=settings.chat,
        )
        results = {
            f"{name}/{result.metric}": result
            for name in tasks
            for result in _results(name, cast("dict[str, Any]", found), settings)
        }
    if cut.count:
        warnings.warn(
            f"lm-eval cut the beginning of inputs longer than the context of {model_name(model)}, "
            f"in {cut.count} cases; lower num_fewshot, or leave those examples out",
            CnaLensWarning,
            stacklevel=3,
        )
    return results


def load_tasks(specs: Sequence[str | dict[str, Any]], include_path: str | Path | None) -> Tasks:
    """Load tasks with their data, and groups as their tasks.

    Args:
        specs: names, or groups in the format of lm-eval's files.
        include_path: a folder of task files, by default lm-eval's own.

    Raises:
        InputError: a name is unknown, or a task cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    # lm-eval's own 15,000 task files take seconds to read.
    manager = TaskManager(include_path=include_path, include_defaults=include_path is None)
    for name in specs:
        if isinstance(name, str) and name not in manager.all_tasks:
            close = get_close_matches(name, manager.all_tasks)
            raise InputError(
                f"there is no task {name!r} in {include_path or 'lm-eval'}; "
                f"similar names: {', '.join(close) or 'none'}"
            )
    try:
        tasks = cast("Tasks", manager.load(list(specs))["tasks"])
    except Exception as error:
        raise InputError(f"the tasks cannot be loaded: {type(error).__name__}: {error}") from error
    if unsafe := [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]:
        raise InputError(
            f"{', '.join(unsafe)} runs code that the model writes; run it with lm-eval itself, "
            "in a sandbox"
        )
    return tasks


def _sorted_examples(tasks: Mapping[str, Sequence[int]]) -> Examples:
    for name, indices in tasks.items():
        # lm-eval would take an empty list for all examples.
        if not indices or len(set(indices)) < len(indices) or min(indices) < 0:
            raise InputError(
                f"the examples of {name} are {list(indices)}, expected at least one index, each "
                "0 or above and given once"
            )
    # lm-eval runs the examples in the data set's order, but names them in the given order.
    return {name: sorted(indices) for name, indices in tasks.items()}


def _check_examples(tasks: Tasks, examples: Examples) -> None:
    if tasks.keys() != examples.keys():
        groups = sorted(examples.keys() - tasks.keys())
        raise InputError(
            f"{', '.join(groups)} is a group; give the examples of each of its tasks instead"
        )
    for name, indices in examples.items():
        if indices[-1] >= (n := len(tasks[name].eval_docs)):
            raise InputError(f"{name} has examples 0 to {n - 1}, but not {indices[-1]}")


def _check_runnable(model: HookedModel, settings: Settings) -> None:
    check_model(model)
    if not is_bridge(model):
        raise ModelError(
            f"lm-eval runs Hugging Face models, but {type(model).__name__} wraps none; load "
            f"{model_name(model)} as a TransformerBridge, with cna_lens.load_model"
        )
    if model.tokenizer is None:
        raise InputError(
            "the model has no tokenizer, but lm-eval's tasks are text; set model.tokenizer"
        )
    if settings.chat and getattr(model.tokenizer, "chat_template", None) is None:
        raise InputError(
            f"chat=True needs a chat template, but the tokenizer of {model_name(model)} has none"
        )
    try:
        import lm_eval.tasks  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise CnaLensError(
            f"lm-eval cannot be imported ({error}); install it with pip install 'cna-lens[evals]'"
        ) from error


def _language_model(model: HookedModel, settings: Settings) -> Any:
    """Wrap the model for lm-eval, with a copy of its tokenizer, which lm-eval changes."""
    from lm_eval.models.huggingface import HFLM
    from transformers import LogitsProcessorList

    original = cast("Any", model).original_model
    with weights_left_as_they_are(original):
        lm: Any = cast("Any", HFLM)(
            pretrained=original,
            tokenizer=copy.deepcopy(model.tokenizer),
            batch_size=settings.batch_size,
            add_bos_token=settings.add_bos_token,
        )
    # If all log-probabilities were NaN, lm-eval would choose the first answer.
    score, generate = lm._model_call, lm._model_generate
    processors = LogitsProcessorList([cast("Any", lambda _, scores: _checked(scores))])
    lm._model_call = lambda *args, **kwargs: _checked(score(*args, **kwargs))
    lm._model_generate = partial(generate, logits_processor=processors)
    return lm


def _checked(logits: Tensor) -> Tensor:
    # NaN counts as the largest; an infinite logit makes log-probabilities NaN.
    if not bool(logits.amax(-1).isfinite().all()):
        raise ActivationError(
            "the model gave logits that are not numbers, or infinite; steer less, or load the "
            "model with dtype=torch.float32"
        )
    return logits


def _check_steered_positions(model: HookedModel, tasks: Tasks) -> None:
    hooks = cast("Any", model).original_model._forward_pre_hooks.values()
    tracked = any(isinstance(getattr(hook, "__self__", None), PositionTracker) for hook in hooks)
    scored = [name for name, task in tasks.items() if task.OUTPUT_TYPE != "generate_until"]
    if tracked and scored:
        raise InputError(
            f"{scored[0]} is scored on prompt and answer in one pass, and lm-eval does not tell "
            "where the answer begins; steer at positions='all', and not by magnitude_anchor, which "
            "reads a token of the prompt"
        )


def _set_fewshot(tasks: Tasks, settings: Settings) -> None:
    wanted = settings.num_fewshot
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        if wanted and own == 0:
            raise InputError(
                f"num_fewshot is {wanted}, but the file of {name} sets it to 0; leave it out"
            )
        task.set_config(key="num_fewshot", value=(own or 0) if wanted is None else wanted)
        task.set_fewshot_seed(seed=settings.seed)


def _results(name: str, found: dict[str, Any], settings: Settings) -> list[TaskResult]:
    """Convert the task's metrics that are means over examples; keep no texts."""
    rows: dict[str, list[tuple[str, str, Any]]] = {}
    for sample in found["samples"][name]:
        place = f"{name}:{sample['doc_id']}"
        hashes = sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"]
        digest = hashlib.sha256(hashes.encode()).hexdigest()
        for metric in sample["metrics"]:
            key = f"{metric},{sample['filter']}"
            rows.setdefault(key, []).append((place, digest, sample[metric]))
    means = {key: row for key, row in rows.items() if _is_mean(found["results"][name][key], row)}
    if not means:
        raise InputError(
            f"{name} has no metric that is a mean over its examples, only {', '.join(rows)}; "
            "use lm-eval itself for it"
        )
    return [
        TaskResult(
            task=name,
            metric=key.removesuffix(",none"),
            ids=tuple(place for place, _, _ in row),
            hashes=tuple(digest for _, digest, _ in row),
            values=tuple(float(value) for _, _, value in row),
            version=str(found["versions"][name]),
            num_fewshot=int(found["n-shot"][name]),
            seed=settings.seed,
        )
        for key, row in means.items()
    ]


def _is_mean(reported: Any, row: Sequence[tuple[str, str, Any]]) -> bool:
    values = [value for _, _, value in row]
    numbers = all(isinstance(value, bool | int | float | np.number) for value in values)
    return (
        numbers
        and isinstance(reported, int | float | np.number)
        and math.isclose(float(reported), fmean(map(float, values)), rel_tol=1e-6, abs_tol=1e-9)
    )
