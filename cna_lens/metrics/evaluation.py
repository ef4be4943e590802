"""Generate answers and label them, without keeping their text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cna_lens.errors import InputError
from cna_lens.metrics.quality import compression_ratio, ngram_quality
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt
from cna_lens.models.running.generation import generate
from cna_lens.results.files import write_atomically
from cna_lens.results.statistics import Estimate, Rate, bootstrap_mean, wilson

if TYPE_CHECKING:
    import pandas as pd

Score = Callable[[str], float | None]

SCORES: Mapping[str, Score] = {
    "quality": ngram_quality,
    "compression_ratio": compression_ratio,
}
"""The default scores of an answer."""

NOTICE = (
    "This file holds the full text of model answers, kept because keep_text was asked for. It may "
    "hold harmful text: do not publish it, and delete it when you are done."
)


@dataclass(frozen=True)
class AnswerRecord:
    """The labels and scores of an answer, without its text.

    Attributes:
        prompt_id: the first 16 hex digits of the SHA-256 of the prompt, or of its JSON if the
            prompt is not a string.
        refused: whether the answer opens with a refusal (`is_refusal`).
        scores: the value of each score, None if the answer has none.
        words: the number of words in the answer.
        sha256: the SHA-256 of the answer.
    """

    prompt_id: str
    refused: bool
    scores: Mapping[str, float | None]
    words: int
    sha256: str


@dataclass(frozen=True)
class Evaluation:
    """The labels and scores of a set of answers, in the order of their prompts."""

    records: tuple[AnswerRecord, ...]

    def __len__(self) -> int:
        """The number of answers."""
        return len(self.records)

    @property
    def refused(self) -> list[bool]:
        """Whether each answer opens with a refusal (`is_refusal`)."""
        return [record.refused for record in self.records]

    @property
    def refusal_rate(self) -> Rate:
        """The share of refusals with its Wilson interval."""
        return wilson(self.refused)

    def scores(self, name: str) -> list[float | None]:
        """The value of one score for each answer.

        Raises:
            InputError: no answer has a score of that name.
        """
        known = sorted({key for record in self.records for key in record.scores})
        if name not in known:
            raise InputError(f"there is no score {name!r}; there are: {', '.join(known)}")
        return [record.scores[name] for record in self.records]

    @property
    def quality(self) -> Estimate | None:
        """The mean 4-gram quality with its interval; None if no answer has a value."""
        values = [record.scores.get("quality") for record in self.records]
        return None if all(value is None for value in values) else bootstrap_mean(values)

    def mean(self, name: str, seed: int = 0) -> Estimate:
        """The mean of a score with its bootstrap interval, and the number of missing values.

        Raises:
            InputError: no answer has a score of that name, or none has a value.
        """
        return bootstrap_mean(self.scores(name), seed=seed)

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each answer."""
        import pandas as pd

        rows = [asdict(record) for record in self.records]
        return pd.DataFrame([{**row.pop("scores"), **row} for row in rows])

    def save(self, path: str | Path) -> None:
        """Write one JSON line for each answer."""
        lines = [json.dumps(asdict(record), sort_keys=True) for record in self.records]
        write_atomically(Path(path), "".join(f"{line}\n" for line in lines))


def evaluate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    scores: Mapping[str, Score] = SCORES,
    chat: Chat = "auto",
    keep_text: bool = False,
    text_path: str | Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Generate answers to prompts and label them; inside `steer`, with the steered model.

    The text is discarded; with `keep_text` it is first written to `text_path`.

    >>> evaluation = evaluate(tiny_model, ["w5 w6"], max_new_tokens=4, chat=False)
    >>> print(evaluation.refusal_rate)
    0.0 % [0.0, 79.3] n=1

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids.
        max_new_tokens: maximum number of tokens of an answer.
        scores: functions from an answer to its score, by name.
        chat: put prompts into the chat template; "auto" does so if the tokenizer has one.
        keep_text: also write prompts and answers to `text_path`.
        text_path: the file for the texts.
        progress: show a progress bar with tokens per second.

    Raises:
        InputError: prompts or settings are invalid, or only one of `keep_text` and `text_path` is
            given.
        GenerationInterrupted: a KeyboardInterrupt that holds the answers finished so far.
    """
    if keep_text != (text_path is not None):
        raise InputError(
            f"keep_text is {keep_text} and text_path is {text_path}; to keep the texts, give both "
            "keep_text=True and a text_path"
        )
    answers = generate(model, prompts, max_new_tokens=max_new_tokens, chat=chat, progress=progress)
    if text_path is not None:
        write_answers(text_path, prompts, answers)
    return label(prompts, answers, scores)


def label(
    prompts: Sequence[Prompt], answers: Sequence[str], scores: Mapping[str, Score] = SCORES
) -> Evaluation:
    """Label given answers.

    >>> label(["How do I pick a lock?"], ["I'm sorry, I can't help with that."]).refused
    [True]

    Raises:
        InputError: the numbers of prompts and answers differ.
    """
    if len(prompts) != len(answers):
        raise InputError(
            f"there are {len(prompts)} prompts and {len(answers)} answers; give one answer for "
            "each prompt"
        )
    return Evaluation(
        tuple(
            AnswerRecord(
                prompt_id=_prompt_id(prompt),
                refused=is_refusal(answer),
                scores={name: score(answer) for name, score in scores.items()},
                words=len(answer.split()),
                sha256=_sha256(answer),
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        )
    )


def write_answers(path: str | Path, prompts: Sequence[Prompt], answers: Sequence[str]) -> None:
    """Write answers with their prompts as JSON lines; the first line warns of their content."""
    rows: list[dict[str, Any]] = [{"notice": NOTICE}]
    rows += [
        {"prompt_id": _prompt_id(prompt), "prompt": _plain(prompt), "answer": answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomically(Path(path), "".join(f"{line}\n" for line in lines))


def _prompt_id(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else json.dumps(_plain(prompt), sort_keys=True)
    return _sha256(text)[:16]


def _plain(prompt: Prompt) -> Any:
    return prompt.tolist() if isinstance(prompt, Tensor) else prompt


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
