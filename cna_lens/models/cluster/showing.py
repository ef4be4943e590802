"""What all workers of a run are doing, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

WAITING = "waiting"
LOADING = "loading"


@dataclass(frozen=True)
class Working:
    """What the worker of one model is doing.

    >>> Working("demo", "contrast", 2, 8)
    Working(model='demo', doing='contrast', finished=2, n_tasks=8)

    Attributes:
        model: the model's name.
        doing: its current task; "waiting" for a machine, or "loading".
        finished: number of its tasks that are finished.
        n_tasks: number of its tasks.
    """

    model: str
    doing: str
    finished: int
    n_tasks: int


class WorkerRows:
    """A row on the terminal for each running model, below any bar that is there already.

    Where standard error is no terminal nothing is drawn.

    >>> with WorkerRows() as rows:
    ...     print(rows([Working("demo", "contrast", 2, 8), Working("other", "waiting", 0, 8)]))
    demo 2/8 contrast; 1 waiting
    """

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._rows: dict[str, Any] = {}

    def __enter__(self) -> WorkerRows:
        """Nothing to begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take all rows off the terminal."""
        self([])

    def __call__(self, workers: Sequence[Working]) -> str:
        """Show these workers and no others; returns the same in one line."""
        running = {each.model: each for each in workers if each.doing != WAITING}
        for gone in set(self._rows) - set(running):
            self._rows.pop(gone).close()
        for model, each in running.items():
            if model not in self._rows:
                self._rows[model] = tqdm(
                    desc=model,
                    total=each.n_tasks,
                    leave=False,
                    disable=None,
                    bar_format="{desc}: {n_fmt}/{total_fmt}{postfix}",
                )
            row = self._rows[model]
            row.n = each.finished
            row.set_postfix_str(each.doing)
        parts = [
            f"{each.model} {each.finished}/{each.n_tasks} {each.doing}"
            for each in workers
            if each.doing != WAITING
        ]
        n_waiting = len(workers) - len(parts)
        return "; ".join([*parts, f"{n_waiting} waiting"] if n_waiting else parts)
