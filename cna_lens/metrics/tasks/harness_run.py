"""How lm-eval is driven: its tasks loaded, a model handed to it, its values taken."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
from torch import Tensor

from cna_lens.errors import ActivationError, CnaLensError, CnaLensWarning, InputError, ModelError
from cna_lens.metrics.tasks.harness_state import weights_left_as_they_are
from cna_lens.metrics.tasks.task_result import TaskResult
from cna_lens.models.hooked_model import HookedModel, check_model, is_bridge, model_name
from cna_lens.models.running.batching import BatchSize, check_batch_size
from cna_lens.models.running.positions import PositionTracker

Examples = dict[str, list[int]]


@dataclass(frozen=True)
class Settings:
    """How tasks are run; see `run_lm_eval`."""

    num_fewshot: int | None
    chat: bool
    add_bos_token: bool | None
    batch_size: BatchSize
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        """Refuse what lm-eval would take amiss."""
        check_batch_size(self.batch_size)
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise InputError(f"num_fewshot is {self.num_fewshot}, expected 0 or above")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}, expected 0 to {2**32 - 1}")


def check_runnable(model: HookedModel, settings: Settings) -> None:
    """Raise unless lm-eval is there and can run this model.

    Raises:
        CnaLensError: lm-eval is not installed.
        ModelError: the model wraps no Hugging Face model.
        InputError: there is no tokenizer, or no chat template where one is asked for.
    """
    check_model(model)
    if not is_bridge(model):
        raise ModelError(
            f"lm-eval runs Hugging Face models, and a {type(model).__name__} wraps none; load "
            f"{model_name(model)} as a TransformerBridge, with cna_lens.load_model"
        )
    if model.tokenizer is None:
        raise InputError("the model has no tokenizer, and lm-eval's tasks are text")
    if settings.chat and getattr(model.tokenizer, "chat_template", None) is None:
        raise InputError(
            f"chat=True needs a chat template, and the tokenizer of {model_name(model)} has none"
        )
    try:
        import lm_eval.tasks  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as error:
        raise CnaLensError(
            f"lm-eval cannot be imported ({error}); install it with pip install 'cna-lens[evals]'"
        ) from error


def load_tasks(
    specs: Sequence[str | dict[str, Any]], include_path: str | Path | None
) -> dict[str, Any]:
    """Load tasks with their data, and groups as their tasks.

    Args:
        specs: names, or groups as lm-eval's files write them.
        include_path: the folder of task files, lm-eval's own by default.

    Raises:
        InputError: an unknown name, or a task that cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    # Reading lm-eval's 15,000 task files takes seconds.
    manager = TaskManager(include_path=include_path, include_defaults=include_path is None)
    for name in specs:
        if isinstance(name, str) and name not in manager.all_tasks:
            close = get_close_matches(name, manager.all_tasks)
            raise InputError(
                f"there is no task {name!r} in {include_path or 'lm-eval'}; "
                f"close are: {', '.join(close) or 'none'}"
            )
    try:
        tasks = cast("dict[str, Any]", manager.load(list(specs))["tasks"])
    except Exception as error:
        raise InputError(f"the tasks cannot be loaded: {type(error).__name__}: {error}") from error
    if unsafe := [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]:
        raise InputError(
            f"{', '.join(unsafe)} runs code that the model writes; run it with lm-eval itself, "
            "in a sandbox"
        )
    return tasks


def run_loaded(
    model: HookedModel,
    tasks: Mapping[str, Any],
    settings: Settings,
    *,
    examples: Examples | None = None,
    limit: int | None = None,
) -> dict[str, TaskResult]:
    """Run loaded tasks, on all examples or on those at the given places, in ascending order."""
    from lm_eval.evaluator import evaluate

    _check_steered_positions(model, tasks)
    _set_fewshot(tasks, settings)
    found = evaluate(
        _language_model(model, settings),
        cast("Any", {"tasks": dict(tasks), "groups": {}}),
        samples=examples,
        limit=limit,
        bootstrap_iters=0,
        apply_chat_template=settings.chat,
        fewshot_as_multiturn=settings.chat,
    )
    return {
        f"{name}/{result.metric}": result
        for name in tasks
        for result in _results(name, cast("dict[str, Any]", found), settings)
    }


def warn_of_cut_inputs(model: HookedModel, count: int) -> None:
    """Warn, in the name of the caller's caller, where inputs were cut."""
    if count:
        warnings.warn(
            f"lm-eval cut the beginning of inputs longer than the context of {model_name(model)}, "
            f"in {count} cases; lower num_fewshot, or leave those examples out",
            CnaLensWarning,
            stacklevel=3,
        )


def _language_model(model: HookedModel, settings: Settings) -> Any:
    """The model as lm-eval takes it, with a tokenizer of its own, since lm-eval pads that."""
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
    # Of answers that are all not a number lm-eval would take the first.
    score, generate = lm._model_call, lm._model_generate
    processors = LogitsProcessorList([cast("Any", lambda _, scores: _checked(scores))])
    lm._model_call = lambda *args, **kwargs: _checked(score(*args, **kwargs))
    lm._model_generate = partial(generate, logits_processor=processors)
    return lm


def _checked(logits: Tensor) -> Tensor:
    if bool(logits.isnan().any()):
        raise ActivationError(
            "the model gave logits that are not numbers, so that its answers mean nothing; "
            "steer less, or load it with dtype=torch.float32"
        )
    return logits


def _check_steered_positions(model: HookedModel, tasks: Mapping[str, Any]) -> None:
    hooks = cast("Any", model).original_model._forward_pre_hooks.values()
    tracked = any(isinstance(getattr(hook, "__self__", None), PositionTracker) for hook in hooks)
    scored = [name for name, task in tasks.items() if task.OUTPUT_TYPE != "generate_until"]
    if tracked and scored:
        raise InputError(
            f"{scored[0]} is scored on prompt and answer in one pass, in which lm-eval does not "
            "say where the answer begins; steer at positions='all'"
        )


def _set_fewshot(tasks: Mapping[str, Any], settings: Settings) -> None:
    wanted = settings.num_fewshot
    for name, task in tasks.items():
        own = task.get_config("num_fewshot")
        if wanted and own == 0:
            raise InputError(
                f"num_fewshot is {wanted}, and {name} allows none: its file says num_fewshot: 0"
            )
        task.set_config(key="num_fewshot", value=(own or 0) if wanted is None else wanted)
        task.set_fewshot_seed(seed=settings.seed)


def _results(name: str, found: dict[str, Any], settings: Settings) -> list[TaskResult]:
    """The task's metrics that are means over examples; the texts stay behind."""
    rows: dict[str, list[tuple[str, str, Any]]] = {}
    for sample in found["samples"][name]:
        place = f"{name}:{sample['doc_id']}"
        digest = _digest(sample["doc_hash"], sample["prompt_hash"], sample["target_hash"])
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


def _digest(*hashes: str) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
