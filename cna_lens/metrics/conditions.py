"""Labels of answers to the same prompts under several conditions, and their file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cna_lens.errors import InputError
from cna_lens.metrics.answer_labels import AnswerRecord, Evaluation
from cna_lens.results.files import json_text, write_atomically

UNSTEERED = "unsteered"
CONTROL = "random control"
UNNAMED = "answers"
"""The condition of answers of which none is known, as in a file of `Evaluation.save`."""


@dataclass(frozen=True)
class Answered:
    """The answers to one kind of prompts under one condition.

    Attributes:
        condition: such as "unsteered, m = 1", "circuit, m = 0" or "random control, m = 0".
        kind: the kind of prompts, such as "harmful".
        evaluation: the labels and scores of the answers.
    """

    condition: str
    kind: str
    evaluation: Evaluation

    @property
    def is_unsteered(self) -> bool:
        """Whether the model was unsteered."""
        return self.condition.startswith(UNSTEERED)

    @property
    def is_control(self) -> bool:
        """Whether random neurons were steered, as a control."""
        return self.condition.startswith(CONTROL)


def save_labels(answered: Iterable[Answered], path: Path) -> None:
    """Write a JSON line for each answer, with its condition, kind and record, but no text.

    Raises:
        InputError: two of them have one condition and kind, so that the file could not tell them
            apart.
    """
    every = list(answered)
    counts = Counter((each.condition, each.kind) for each in every)
    for (condition, kind), count in counts.items():
        if count > 1:
            raise InputError(
                f"{count} evaluations have the condition {condition!r} and the kind {kind!r}, and "
                "would be one in the file; give each a condition of its own"
            )
    lines = [
        json_text({"condition": a.condition, "kind": a.kind, **asdict(record)})
        for a in every
        for record in a.evaluation.records
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines))


def load_labels(path: Path) -> tuple[Answered, ...]:
    """Load a file of `save_labels` or `Evaluation.save`; the latter has one condition and kind.

    >>> import tempfile
    >>> from cna_lens.metrics import label
    >>> answered = (Answered("unsteered, m = 1", "harmful", label(["a"], ["I'm sorry."])),)
    >>> path = Path(tempfile.mkdtemp()) / "labels.jsonl"
    >>> save_labels(answered, path)
    >>> load_labels(path) == answered
    True

    Raises:
        InputError: a line is no record of an answer, or the file is empty or not in UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text in UTF-8; give a file of save_labels or Evaluation.save"
        ) from error
    grouped: dict[tuple[str, str], list[AnswerRecord]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry: dict[str, Any] = json.loads(line)
            place = str(entry.pop("condition", UNNAMED)), str(entry.pop("kind", "given"))
            grouped.setdefault(place, []).append(AnswerRecord.from_record(entry))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"line {number} of {path} is no record of an answer") from error
    if not grouped:
        raise InputError(f"{path} holds no answers")
    return tuple(
        Answered(condition, kind, Evaluation(tuple(records)))
        for (condition, kind), records in grouped.items()
    )
