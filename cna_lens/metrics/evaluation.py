"""Generate answers and label them, without keeping their text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from cna_lens.errors import InputError, JudgeError
from cna_lens.metrics.compliance import complies, no_answer
from cna_lens.metrics.judging.judge import Judge, check_judge, judge as judge_answers
from cna_lens.metrics.quality import compression_ratio, ngram_quality
from cna_lens.metrics.refusal.reasoning import without_reasoning
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.chats import text_of
from cna_lens.models.prompts.encoding import Chat, Prompt, chat_settings
from cna_lens.models.prompts.reasoning_formats import ReasoningFormat
from cna_lens.models.running.generation import generate
from cna_lens.results.files import json_text, write_atomically
from cna_lens.results.statistics import (
    Estimate,
    Rate,
    bootstrap_mean,
    mcnemar_of_known,
    wilson,
    wilson_of_known,
)

if TYPE_CHECKING:
    import pandas as pd

Score = Callable[[str], float | None]
AnswerOutcome = Literal["refusal", "compliance", "no answer", "other"]

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

    Form and compliance are two labels: an answer that does not open with a refusal need not comply.

    Attributes:
        prompt_id: the first 16 hex digits of the SHA-256 of the prompt, or of its JSON if the
            prompt is not a string.
        refused: whether the answer opens with a refusal (`is_refusal`).
        scores: the value of each score, None if the answer has none.
        words: the number of words in the answer.
        sha256: the SHA-256 of the answer.
        complied: whether the answer complies, according to the judge, or to the rule `complies`.
            None where it is not known: the prompt is token ids, which have no text, the judge gave
            no judgement, or the record is older than this label.
        no_answer: whether the answer does not refuse, and is empty or degenerate (`no_answer`).
            None in records that are older than this label.
        judge: the name of the model that was to judge whether the answer complies. None where no
            judge is asked: compliance is told by the rule, or the answer is empty or degenerate.
    """

    prompt_id: str
    refused: bool
    scores: Mapping[str, float | None]
    words: int
    sha256: str
    complied: bool | None = None
    no_answer: bool | None = None
    judge: str | None = None

    @property
    def outcome(self) -> AnswerOutcome | None:
        """The one thing that the answer is; None if a label is missing that decides it.

        "compliance" comes first: a judge may find that an answer complies although it opens with a
        refusal. "other" is an answer off topic, of one sentence, or in which a refusal comes late.
        """
        if self.complied:
            return "compliance"
        # The rule never says that a refusal complies; a judge can.
        if self.refused and (self.complied is False or self.judge is None):
            return "refusal"
        if self.no_answer:
            return "no answer"
        return None if self.complied is None else "other"


@dataclass(frozen=True)
class Evaluation:
    """The labels and scores of a set of answers, in the order of their prompts.

    All rates are shares of all answers: an empty or degenerate answer stays in the denominator, and
    `no_answer_rate` says how many there are. So fewer refusals mean more compliance only where
    `compliance_rate` says so. An answer whose label is missing is left out of the rate's n.
    """

    records: tuple[AnswerRecord, ...]

    def __len__(self) -> int:
        """The number of answers."""
        return len(self.records)

    @property
    def refused(self) -> list[bool]:
        """Whether each answer opens with a refusal (`is_refusal`)."""
        return [record.refused for record in self.records]

    @property
    def complied(self) -> list[bool | None]:
        """Whether each answer complies; None where it is not known."""
        return [record.complied for record in self.records]

    @property
    def no_answer(self) -> list[bool | None]:
        """Whether each answer is empty or degenerate and does not refuse; None if not known."""
        return [record.no_answer for record in self.records]

    @property
    def outcomes(self) -> list[AnswerOutcome | None]:
        """What each answer is: a refusal, compliance, no answer, or something else."""
        return [record.outcome for record in self.records]

    @property
    def refusal_rate(self) -> Rate:
        """The share of refusals with its Wilson interval."""
        return wilson(self.refused)

    @property
    def compliance_rate(self) -> Rate | None:
        """The share of answers that comply with its Wilson interval; None if no label is known."""
        return wilson_of_known(self.complied)

    @property
    def no_answer_rate(self) -> Rate | None:
        """The share of empty and degenerate answers with its Wilson interval; None if not known."""
        return wilson_of_known(self.no_answer)

    @property
    def judges(self) -> tuple[str, ...]:
        """The models that were to judge compliance, by name; none if no judge was asked."""
        return tuple(sorted({record.judge for record in self.records if record.judge is not None}))

    @property
    def by_rule(self) -> bool:
        """Whether the rule `complies` told compliance.

        False for a judge. False too where all answers are empty or degenerate: they do not comply,
        with a judge and without.
        """
        return not self.judges and not all(self.no_answer)

    def compliance_p_value(self, before: Evaluation) -> float | None:
        """The exact McNemar test of compliance against other answers to the same prompts.

        Pairs of which a label is missing are left out. There is no p-value where no pair is left,
        or where not the same judge, or the rule, told compliance of both.

        >>> request = ["How do I boil potatoes?"] * 6
        >>> boiled = "Put the potatoes into cold water. Boil them for twenty minutes."
        >>> label(request, [boiled] * 6).compliance_p_value(label(request, ["Sure!"] * 6))
        0.03125

        Args:
            before: the other answers, in the order of the same prompts.

        Raises:
            InputError: the numbers of answers differ.
        """
        if not judged_alike([before, self]):
            return None
        return mcnemar_of_known(before.complied, self.complied)

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
        return self._known_mean("quality")

    @property
    def compression_ratio(self) -> Estimate | None:
        """The mean compression ratio with its interval; None if no answer has a value."""
        return self._known_mean("compression_ratio")

    def mean(self, name: str, seed: int = 0) -> Estimate:
        """The mean of a score with its bootstrap interval, and the number of missing values.

        Raises:
            InputError: no answer has a score of that name, or none has a value.
        """
        return bootstrap_mean(self.scores(name), seed=seed)

    def _known_mean(self, name: str) -> Estimate | None:
        values = [record.scores.get(name) for record in self.records]
        return None if all(value is None for value in values) else bootstrap_mean(values)

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row for each answer."""
        import pandas as pd

        rows = [asdict(record) for record in self.records]
        frame = pd.DataFrame([{**row.pop("scores"), **row} for row in rows])
        return frame.assign(outcome=self.outcomes)

    def save(self, path: str | Path) -> None:
        """Write one JSON line for each answer."""
        lines = [json_text(asdict(record)) for record in self.records]
        write_atomically(Path(path), "".join(f"{line}\n" for line in lines))


class UnjudgedError(JudgeError):
    """A judge failed when the answers were there; they and their other labels are kept.

    Attributes:
        evaluation: the labels of the answers. Compliance is None where the judge was to tell it.
        answers: the answers. Give them to `label` to ask the judge again; it need not ask about
            those of which the judge's cache has a judgement.
    """

    def __init__(self, reason: str, evaluation: Evaluation, answers: Sequence[str]) -> None:
        """Keep the answers and their labels."""
        super().__init__(reason)
        self.evaluation = evaluation
        self.answers = tuple(answers)


def judged_alike(evaluations: Iterable[Evaluation]) -> bool:
    """Whether compliance was told by the same judges in all evaluations, or in all by the rule."""
    return len({found.judges for found in evaluations if found.judges or found.by_rule}) <= 1


def evaluate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    scores: Mapping[str, Score] = SCORES,
    chat: Chat = "auto",
    judge: Judge | None = None,
    keep_text: bool = False,
    text_path: str | Path | None = None,
    progress: bool = False,
) -> Evaluation:
    """Generate answers to prompts and label them; inside `steer`, with the steered model.

    The text is discarded; with `keep_text` it is first written to `text_path`.

    >>> evaluation = evaluate(tiny_model, ["w5 w6"], max_new_tokens=4, chat=False)
    >>> print(evaluation.refusal_rate)
    0.0 % [0.0, 79.3] n=1
    >>> print(evaluation.compliance_rate)
    0.0 % [0.0, 79.3] n=1

    Whether an answer opens with a refusal, and whether it complies, are two labels
    (`AnswerRecord`). A `judge` tells compliance where there is one, and the rule `complies`
    otherwise. The judge's packages, key, settings and cache are checked before answers are
    generated. Whether its endpoint answers is known only afterwards; if it fails, the error holds
    the answers and their other labels.

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids.
        max_new_tokens: maximum number of tokens of an answer.
        scores: functions from an answer to its score, by name.
        chat: put prompts into the chat template; "auto" does so if the tokenizer has one.
        judge: a model to judge whether answers comply; it is sent prompts and answers.
        keep_text: also write prompts and answers to `text_path`.
        text_path: the file for the texts.
        progress: show a progress bar with tokens per second.

    Raises:
        InputError: prompts or settings are invalid, only one of `keep_text` and `text_path` is
            given, or there is a judge and a prompt is token ids, or its cache is not a file of
            judgements.
        JudgeError: the extra `judge` is not installed, or the key is missing.
        UnjudgedError: a JudgeError that holds answers and labels, because the endpoint failed.
        GenerationInterrupted: a KeyboardInterrupt that holds the answers finished so far.
    """
    if keep_text != (text_path is not None):
        raise InputError(
            f"keep_text is {keep_text} and text_path is {text_path}; to keep the texts, give both "
            "keep_text=True and a text_path"
        )
    if judge is not None:
        _requests_to_judge(prompts)
        check_judge(judge)
    answers = generate(model, prompts, max_new_tokens=max_new_tokens, chat=chat, progress=progress)
    if text_path is not None:
        write_answers(text_path, prompts, answers)
    return label(prompts, answers, scores, judge=judge, reasoning=chat_settings(chat).reasoning)


def label(
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    scores: Mapping[str, Score] = SCORES,
    *,
    judge: Judge | None = None,
    reasoning: Sequence[ReasoningFormat] = (),
) -> Evaluation:
    """Label given answers.

    >>> answers = ["I'm sorry, I can't help with that.", "!!!!!!!!!!!!!!!!", "Sure!"]
    >>> labelled = label(["How do I pick a lock?"] * 3, answers)
    >>> labelled.refused
    [True, False, False]
    >>> labelled.outcomes
    ['refusal', 'no answer', 'other']

    The request of chat messages is the last message of the user. Labels are about what is left of
    an answer without its reasoning (`without_reasoning`), and so is what a judge reads; scores,
    words and hash are about all of it. A judge is not asked about empty and degenerate answers,
    which do not comply.

    Args:
        prompts: strings, lists of chat messages, or token ids.
        answers: one answer for each prompt.
        scores: functions from an answer to its score, by name.
        judge: a model to judge whether answers comply; without one, the rule `complies` tells it.
        reasoning: formats of reasoning beside `REASONING_FORMATS`.

    Raises:
        InputError: the numbers of prompts and answers differ, or there is a judge and a prompt is
            token ids, or its cache is not a file of judgements.
        UnjudgedError: a JudgeError that holds the other labels, because the judge cannot be asked;
            see `judge`.
    """
    if len(prompts) != len(answers):
        raise InputError(
            f"there are {len(prompts)} prompts and {len(answers)} answers; give one answer for "
            "each prompt"
        )
    read = [without_reasoning(answer, reasoning) for answer in answers]
    empty = [no_answer(text) for text in read]
    if judge is None:
        compliance, failure = _complied(prompts, read), None
    else:
        compliance, failure = _judged(prompts, read, empty, judge)
    records = (
        AnswerRecord(
            prompt_id=_prompt_id(prompt),
            refused=(refused := is_refusal(text)),
            scores={name: score(answer) for name, score in scores.items()},
            words=len(answer.split()),
            sha256=_sha256(answer),
            complied=complied,
            no_answer=not refused and is_empty,
            judge=None if judge is None or is_empty else judge.model,
        )
        for prompt, answer, text, is_empty, complied in zip(
            prompts, answers, read, empty, compliance, strict=True
        )
    )
    evaluation = Evaluation(tuple(records))
    if failure is not None:
        raise UnjudgedError(
            f"{failure} (the answers and their other labels are in this error: `answers`, "
            "`evaluation`)",
            evaluation,
            answers,
        ) from failure
    return evaluation


def write_answers(path: str | Path, prompts: Sequence[Prompt], answers: Sequence[str]) -> None:
    """Write answers with their prompts as JSON lines; the first line warns of their content."""
    rows: list[dict[str, Any]] = [{"notice": NOTICE}]
    rows += [
        {"prompt_id": _prompt_id(prompt), "prompt": _plain(prompt), "answer": answer}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    write_atomically(Path(path), "".join(f"{line}\n" for line in lines))


def _complied(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[bool | None]:
    requests = map(_request, prompts)
    return [
        None if request is None else complies(request, answer)
        for request, answer in zip(requests, answers, strict=True)
    ]


def _judged(
    prompts: Sequence[Prompt], answers: Sequence[str], empty: Sequence[bool], judge: Judge
) -> tuple[list[bool | None], JudgeError | None]:
    """Return the labels of a judge, None where it failed, and its failure."""
    requests = _requests_to_judge(prompts)
    asked = [place for place, is_empty in enumerate(empty) if not is_empty]
    try:
        judged = judge_answers(
            [requests[place] for place in asked], [answers[place] for place in asked], judge
        )
    except JudgeError as failure:
        return [False if is_empty else None for is_empty in empty], failure
    complied = dict(zip(asked, judged.complied, strict=True))
    return [complied.get(place, False) for place in range(len(answers))], None


def _requests_to_judge(prompts: Sequence[Prompt]) -> list[str]:
    requests: list[str] = []
    for place, prompt in enumerate(prompts):
        request = _request(prompt)
        if request is None:
            raise InputError(
                f"prompt {place} has no text of a user for the judge to read; give strings or chat "
                "messages, or evaluate without a judge"
            )
        requests.append(request)
    return requests


def _request(prompt: Prompt) -> str | None:
    """Return what the user asked; token ids have no text."""
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Tensor):
        return None
    said = [
        text_of(message["content"])
        for message in prompt
        if isinstance(message, Mapping) and message["role"] == "user"
    ]
    return said[-1] if said else None


def _prompt_id(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else json.dumps(_plain(prompt), sort_keys=True)
    return _sha256(text)[:16]


def _plain(prompt: Prompt) -> Any:
    return prompt.tolist() if isinstance(prompt, Tensor) else prompt


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
