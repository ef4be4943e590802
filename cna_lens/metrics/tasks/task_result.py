"""The result of a task of lm-eval: one value for each example, and no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cna_lens.errors import InputError
from cna_lens.results.statistics import Estimate, Rate, bootstrap_mean, paired_bootstrap, wilson


@dataclass(frozen=True)
class TaskResult:
    """Values of one metric on each example of a task, in the same order in every run.

    >>> ids, hashes = ("trivia:0", "trivia:1", "trivia:2"), ("3f", "a0", "77")
    >>> before = TaskResult("trivia", "acc", ids, hashes, (1.0, 1.0, 0.0))
    >>> after = TaskResult("trivia", "acc", ids, hashes, (0.0, 1.0, 0.0))
    >>> print(before.score)
    66.7 % [20.8, 93.9] n=3
    >>> mcnemar(before.outcomes, after.outcomes)
    1.0
    >>> print(after.change_from(before))
    -0.333 [-1, 0] n=3

    Attributes:
        task: lm-eval's name of the task, or of the pooled group.
        metric: lm-eval's name of the metric, followed by a comma and a filter's name if it has one.
        ids: the task and the example's index in the data set, such as "mmlu_anatomy:12".
        hashes: a SHA-256 for each example, of its content and of the prompt made from it.
        values: the value of the metric for each example.
        version: the version of the task, from its file.
        num_fewshot: number of worked examples before each question.
        seed: seed for drawing the worked examples and for sampling answers.
    """

    task: str
    metric: str
    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    values: tuple[float, ...]
    version: str = ""
    num_fewshot: int = 0
    seed: int = 0

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self.values)

    @property
    def score(self) -> Rate | Estimate:
        """The mean with Wilson's interval if every value is 0 or 1, else a bootstrap interval."""
        if self._is_binary():
            return wilson(self.outcomes)
        return bootstrap_mean(self.values)

    @property
    def outcomes(self) -> tuple[bool, ...]:
        """Whether each example was answered correctly, for `cna_lens.mcnemar`.

        Raises:
            InputError: the metric has values other than 0 and 1.
        """
        if not self._is_binary():
            raise InputError(
                f"{self.task}/{self.metric} has values other than 0 and 1; use change_from to "
                "compare its means"
            )
        return tuple(value == 1 for value in self.values)

    def change_from(self, before: TaskResult, *, seed: int = 0) -> Estimate:
        """The mean change from another condition, with its paired bootstrap interval.

        Args:
            before: the result of the same examples under the other condition.
            seed: seed for the resampling.

        Raises:
            InputError: metric, prompts or their order differ.
        """
        if (before.metric, before.ids, before.hashes) != (self.metric, self.ids, self.hashes):
            raise InputError(
                f"{before.task}/{before.metric} with n={before.n} and {self.task}/{self.metric} "
                f"with n={self.n} are not of the same prompts; run both conditions with the same "
                "tasks, examples, num_fewshot and seed"
            )
        return paired_bootstrap(before.values, self.values, seed=seed)

    def _is_binary(self) -> bool:
        return set(self.values) <= {0, 1}


def pooled(results: Sequence[TaskResult], task: str) -> TaskResult:
    """Pool the examples of several tasks, each counted once.

    Args:
        results: results of one metric, from one run.
        task: the name of the pooled task.
    """
    return replace(
        results[0],
        task=task,
        ids=tuple(name for result in results for name in result.ids),
        hashes=tuple(digest for result in results for digest in result.hashes),
        values=tuple(value for result in results for value in result.values),
    )
