"""What a task of lm-eval gave: one value for each example, and no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cna_lens.errors import InputError
from cna_lens.results.statistics import (
    Estimate,
    Rate,
    bootstrap_mean,
    paired_bootstrap,
    wilson,
)


@dataclass(frozen=True)
class TaskResult:
    """One metric's value on each example of a task, in an order that another run repeats.

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
        task: lm-eval's name of the task, or of the group that was pooled.
        metric: lm-eval's name of the metric, with the filter's behind a comma where there is one.
        ids: the task and the example's place in its data set, such as "mmlu_anatomy:12".
        hashes: for each example the SHA-256 of what it holds and of the prompt made from it.
        values: of the metric.
        version: the task's, as its file says.
        num_fewshot: worked examples before each question.
        seed: the one the worked examples were drawn and answers sampled with.
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
        """Number of examples."""
        return len(self.values)

    @property
    def score(self) -> Rate | Estimate:
        """The mean with its interval: Wilson's where every value is 0 or 1, else bootstrapped."""
        if self._is_binary():
            return wilson(self.outcomes)
        return bootstrap_mean(self.values)

    @property
    def outcomes(self) -> tuple[bool, ...]:
        """Right or wrong for each example, for `cna_lens.mcnemar`.

        Raises:
            InputError: the metric has values other than 0 and 1.
        """
        if not self._is_binary():
            raise InputError(
                f"{self.task}/{self.metric} has values other than 0 and 1; compare its means with "
                "change_from"
            )
        return tuple(value == 1 for value in self.values)

    def change_from(self, before: TaskResult, *, seed: int = 0) -> Estimate:
        """The mean change of each example since another condition, with its bootstrap interval.

        Args:
            before: the same examples under the other condition.
            seed: for the resampling.

        Raises:
            InputError: the two are not the same metric on the same prompts in the same order.
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
    """The examples of several tasks as one result, each example counted once.

    Args:
        results: of one metric, from one run.
        task: what to call the whole.
    """
    first = results[0]
    return TaskResult(
        task=task,
        metric=first.metric,
        ids=tuple(name for result in results for name in result.ids),
        hashes=tuple(digest for result in results for digest in result.hashes),
        values=tuple(value for result in results for value in result.values),
        version=first.version,
        num_fewshot=first.num_fewshot,
        seed=first.seed,
    )
