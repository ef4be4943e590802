"""MMLU on questions drawn by seed from all subjects, the paper's measure of capability."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from cna_lens.errors import InputError
from cna_lens.metrics.tasks.harness import Examples, Settings, Tasks, load_tasks, run_tasks
from cna_lens.metrics.tasks.task_result import TaskResult, pooled
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.files import cache_for
from cna_lens.models.running.batching import BatchSize

DATA_SET = "cais/mmlu"
PREFIX = "mmlu_"


def mmlu(
    model: HookedModel,
    *,
    n: int | None = 1000,
    subjects: Sequence[str] | None = None,
    data_set: str | Path = DATA_SET,
    num_fewshot: int = 0,
    chat: bool = False,
    add_bos_token: bool | None = None,
    batch_size: BatchSize = 8,
    seed: int = 0,
    progress: bool = False,
) -> TaskResult:
    """Accuracy on n questions of MMLU; inside `steer`, of the steered model.

    For instance, capability before and after a circuit is ablated:

        before = mmlu(model)
        with cna_lens.steer(model, circuit, multiplier=0.0):
            after = mmlu(model)
        print(before.score, after.score, after.change_from(before))

    The paper uses 1000 questions (arXiv 2605.12290, figure 2), but publishes neither their
    selection nor the number of worked examples. Here the seed selects test questions of all 57
    subjects; see `draw_questions`. The prompts are lm-eval's, and the answer is the likeliest of
    A, B, C and D. Source: Hendrycks et al. 2021, arXiv 2009.03300.

    Args:
        model: a TransformerBridge.
        n: number of questions, None for all.
        subjects: names of subjects, such as "anatomy"; by default all 57.
        data_set: a name on the Hub, or a local folder in the same layout.
        num_fewshot: number of worked examples before each question, at most 5: 0 as in lm-eval, 5
            as in Hendrycks et al.
        chat: put the prompts into the chat template.
        add_bos_token: begin texts with the BOS token; see `run_lm_eval`.
        batch_size: inputs in one batch; "auto" finds the largest that fits, which suits a GPU.
        seed: seed for drawing the questions.
        progress: show lm-eval's progress bars and messages.

    Returns:
        The result of task "mmlu" and metric "acc"; its ids name the subjects, such as
        "mmlu_anatomy:12".

    Raises:
        CnaLensError: lm-eval is not installed.
        ModelError: the model is a HookedTransformer, which lm-eval cannot run.
        InputError: the data set cannot be loaded (the message says how to get it) or has fewer
            than n questions, or a setting is invalid.
        ActivationError: the model gave logits that are not numbers.

    Warns:
        CnaLensWarning: lm-eval cut the beginning of inputs that were longer than the context.
    """
    settings = Settings(num_fewshot, chat, add_bos_token, batch_size, seed, progress)
    if num_fewshot > 5:
        raise InputError(f"num_fewshot is {num_fewshot}, MMLU has 5 worked examples a subject")
    with cache_for(data_set) as cache:

        def load() -> tuple[Tasks, Examples]:
            tasks = _load(_names(subjects), data_set, cache)
            sizes = {name: len(task.eval_docs) for name, task in tasks.items()}
            drawn = draw_questions(sizes, sum(sizes.values()) if n is None else n, seed)
            return {name: tasks[name] for name in drawn}, drawn

        results = run_tasks(model, load, settings)
    return pooled([result for result in results.values() if result.metric == "acc"], "mmlu")


def draw_questions(sizes: Mapping[str, int], n: int, seed: int) -> dict[str, list[int]]:
    """Draw n questions uniformly from all subjects together.

    Questions are ordered by the SHA-256 of "seed:subject:index", and the first n are taken. A seed
    therefore draws the same questions on every machine, and a smaller draw is part of a larger one.

    >>> draw_questions({"anatomy": 3, "virology": 2}, n=3, seed=0)
    {'anatomy': [0, 1], 'virology': [1]}

    Args:
        sizes: the number of questions in each subject.
        n: the number of questions to draw.
        seed: seed of the draw.

    Returns:
        Ascending indices of the drawn questions, without subjects of which none was drawn.

    Raises:
        InputError: n is below 1, or above the number of questions.
    """
    total = sum(sizes.values())
    if not 1 <= n <= total:
        raise InputError(
            f"n is {n}, expected 1 to {total}, the number of questions; n=None takes all"
        )
    questions = [(subject, index) for subject in sizes for index in range(sizes[subject])]
    questions.sort(key=lambda question: _rank(seed, *question))
    drawn: dict[str, list[int]] = {}
    for subject, index in sorted(questions[:n]):
        drawn.setdefault(subject, []).append(index)
    return drawn


def _rank(seed: int, subject: str, index: int) -> bytes:
    return hashlib.sha256(f"{seed}:{subject}:{index}".encode()).digest()


def _folder() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"


def _names(subjects: Sequence[str] | None) -> list[str]:
    """The names of the tasks, sorted."""
    known = sorted(path.stem for path in _folder().glob(f"{PREFIX}*.yaml"))
    if subjects is None:
        return known
    if isinstance(subjects, str) or not subjects:
        raise InputError(f"subjects is {subjects!r}, expected a list such as ['anatomy']")
    names = sorted(f"{PREFIX}{subject}" for subject in set(subjects))
    if unknown := [name.removeprefix(PREFIX) for name in names if name not in known]:
        choices = ", ".join(name.removeprefix(PREFIX) for name in known)
        raise InputError(f"MMLU has no subject {unknown[0]!r}; it has: {choices}")
    return names


def _load(names: Sequence[str], data_set: str | Path, cache: str | None) -> Tasks:
    source = {"dataset_path": str(data_set), "dataset_kwargs": {"cache_dir": cache}}
    members = [{"task": name, **source} for name in names]
    try:
        return load_tasks([{"group": "mmlu_sample", "task": members}], _folder())
    except InputError as error:
        raise InputError(
            f"MMLU cannot be loaded from {data_set}. On a machine with network run\n"
            f"    hf download {DATA_SET} --repo-type dataset --local-dir mmlu\n"
            f"and pass that folder, data_set='mmlu'. The error was: {error}"
        ) from error
