"""Evaluate: generate, label, and keep what is needed to compare, without the answers' text."""

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
"""What an answer is scored by unless told otherwise."""

NOTICE = (
    "This file holds the full text of model answers, kept because keep_text was asked for. It may "
    "hold harmful text: do not publish it, and delete it when you are done."
)


@dataclass(frozen=True)
class AnswerRecord:
    """What is kept of an answer: never its text.

    Attributes:
        prompt_id: the first 16 digits of the SHA-256 of the prompt; of its JSON where it is no
            string.
        refused: whether the answer opens with a refusal.
        scores: a value for each score, None where the answer has none.
        words: how many words the answer has.
        sha256: of the answer.
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
        """How many answers were evaluated."""
        return len(self.records)

    @property
    def refused(self) -> list[bool]:
        """Whether each answer is a refusal."""
        return [record.refused for record in self.records]

    @property
    def refusal_rate(self) -> Rate:
        """The share of refusals with its Wilson interval."""
        return wilson(self.refused)

    def scores(self, name: str) -> list[float | None]:
        """One score of each answer.

        Raises:
            InputError: the answers were not scored by that name.
        """
        known = sorted({key for record in self.records for key in record.scores})
        if name not in known:
            raise InputError(f"there is no score {name!r}; there are: {', '.join(known)}")
        return [record.scores[name] for record in self.records]

    @property
    def quality(self) -> Estimate | None:
        """The mean 4-gram quality with its interval; None where no answer has any."""
        values = [record.scores.get("quality") for record in self.records]
        return None if all(value is None for value in values) else bootstrap_mean(values)

    def mean(self, name: str, seed: int = 0) -> Estimate:
        """The mean of a score with its bootstrap interval; missing ones are counted.

        Raises:
            InputError: the answers were not scored by that name, or none has a value.
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
    """Answer prompts and label the answers; inside `steer`, with the steered model.

    The answers' text is forgotten unless `keep_text` is set, which writes it to a file of its own.

    >>> evaluation = evaluate(tiny_model, ["w5 w6"], max_new_tokens=4, chat=False)
    >>> print(evaluation.refusal_rate)
    0.0 % [0.0, 79.3] n=1

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids.
        max_new_tokens: tokens of an answer at most.
        scores: functions from an answer to its score, by name.
        chat: put prompts into the chat template; "auto" where the tokenizer has one.
        keep_text: also write prompts and answers to `text_path`.
        text_path: the file for the texts.
        progress: show a progress bar with tokens per second.

    Raises:
        InputError: bad prompts or settings; `keep_text` without `text_path`, or the reverse.
        GenerationInterrupted: a KeyboardInterrupt that carries the answers finished so far.
    """
    if keep_text != (text_path is not None):
        raise InputError(
            f"keep_text is {keep_text} and text_path is {text_path}; text is kept only with both: "
            "keep_text=True, and the file it goes to"
        )
    answers = generate(model, prompts, max_new_tokens=max_new_tokens, chat=chat, progress=progress)
    if text_path is not None:
        write_answers(text_path, prompts, answers)
    return label(prompts, answers, scores)


def label(
    prompts: Sequence[Prompt], answers: Sequence[str], scores: Mapping[str, Score] = SCORES
) -> Evaluation:
    """Label answers that were generated elsewhere.

    >>> label(["How do I pick a lock?"], ["I'm sorry, I can't help with that."]).refused
    [True]

    Raises:
        InputError: not one answer for each prompt.
    """
    if len(prompts) != len(answers):
        raise InputError(f"there are {len(prompts)} prompts and {len(answers)} answers")
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
    """Write answers with their prompts as JSON lines, the first of which says what the file is."""
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
