"""Generate answers and label them, without keeping their text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from torch import Tensor

from cna_lens.errors import GenerationInterrupted, InputError, JudgeError
from cna_lens.metrics.answer_labels import AnswerRecord, Evaluation
from cna_lens.metrics.answer_texts import prompt_id, read_answers, sha256_of, write_answers
from cna_lens.metrics.compliance import complies, no_answer
from cna_lens.metrics.judging.judge import Judge, check_judge, judge as judge_answers
from cna_lens.metrics.quality import compression_ratio, ngram_quality
from cna_lens.metrics.refusal.reasoning import without_reasoning
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.chats import check_message, text_of
from cna_lens.models.prompts.encoding import Chat, Prompt, as_messages, chat_settings
from cna_lens.models.prompts.reasoning_formats import ReasoningFormat
from cna_lens.models.running.batching import BatchSize, is_whole
from cna_lens.models.running.generation import finished_answers
from cna_lens.models.running.request import check_settings
from cna_lens.results.journal import Journal

Score = Callable[[str], float | None]


SCORES: Mapping[str, Score] = {
    "quality": ngram_quality,
    "compression_ratio": compression_ratio,
}
"""The default scores of an answer."""


class UnjudgedError(JudgeError):
    """A judge failed when the answers were there; they and their other labels are kept.

    Attributes:
        evaluation: the labels of the answers. Compliance is None where the judge was to tell it.
        answers: the answers, None for one that was judged in an earlier run and has no text. Give
            them to `label` to ask the judge again; it need not ask about those of which the judge's
            cache has a judgement. Where one is None, call `evaluate` again with the same journal
            instead.
    """

    def __init__(self, reason: str, evaluation: Evaluation, answers: Sequence[str | None]) -> None:
        """Keep the answers and their labels."""
        super().__init__(reason)
        self.evaluation = evaluation
        self.answers = tuple(answers)


def evaluate(
    model: HookedModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    samples: int = 1,
    batch_size: BatchSize = "auto",
    scores: Mapping[str, Score] = SCORES,
    chat: Chat = "auto",
    judge: Judge | None = None,
    keep_text: bool = False,
    text_path: str | Path | None = None,
    journal: Journal | None = None,
    condition: str = "answers",
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

    With a `journal`, each answer's record is on the disk as soon as the answer is finished, and an
    answer that has a record there is not generated again. A record without text cannot be judged,
    and gives no text: an answer that the judge has not read is generated again, and with
    `keep_text` so is one that is not in `text_path`.

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: strings, lists of chat messages, or token ids.
        max_new_tokens: maximum number of tokens of an answer.
        temperature: 0 takes the most likely token, above 0 samples.
        top_p: sample from the fewest tokens that have this probability together.
        seed: the seed for sampling; unused at temperature 0.
        samples: the number of answers to each prompt; several need a temperature above 0.
        batch_size: the number of answers generated at once; "auto" fits them to the free memory.
        scores: functions from an answer to its score, by name.
        chat: put prompts into the chat template; "auto" does so if the tokenizer has one.
        judge: a model to judge whether answers comply; it is sent prompts and answers.
        keep_text: also write prompts and answers to `text_path`.
        text_path: the file for the texts.
        journal: holds the records of finished answers. What it depends on must name all that
            changes answers or labels and that this function cannot see: steering, and the code of
            scores of your own, of which only the names are compared.
        condition: the first part of the journal's keys, where it holds several evaluations.
        progress: show a progress bar with tokens per second.

    Returns:
        The labels, in the order of the prompts; the answers to one prompt follow each other.

    Raises:
        InputError: prompts or settings are invalid, only one of `keep_text` and `text_path` is
            given, a score is called like a field of `AnswerRecord`, or there is a judge and a
            prompt is token ids, or its cache is not a file of judgements.
        ModelError: logits are not a number or infinite, so that no token can be chosen.
        JudgeError: the extra `judge` is not installed, or the key is missing.
        UnjudgedError: a JudgeError that holds answers and labels, because the endpoint failed.
        GenerationInterrupted: a KeyboardInterrupt that holds the answers finished so far, also
            while the judge is asked.
    """
    _check_list("prompts", prompts)
    if keep_text != (text_path is not None):
        raise InputError(
            f"keep_text is {keep_text} and text_path is {text_path}; to keep the texts, give both "
            "keep_text=True and a text_path"
        )
    check_settings(max_new_tokens, temperature, top_p, samples)
    reasoning = chat_settings(chat).reasoning
    finished = _Finished(prompts, samples, scores, judge, reasoning, journal, condition)
    if judge is not None:
        check_judge(judge)
    if text_path is not None:
        finished.take_texts(Path(text_path))
    arriving = finished_answers(
        model,
        finished.asked,
        places=finished.missing(),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        chat=chat,
        batch_size=batch_size,
        progress=progress,
    )
    try:
        try:
            for place, answer in arriving:
                finished.add(place, answer)
        finally:
            if text_path is not None:
                finished.write(Path(text_path))
        return finished.judged()
    except KeyboardInterrupt:
        raise GenerationInterrupted(finished.texts()) from None


def label(
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    scores: Mapping[str, Score] = SCORES,
    *,
    judge: Judge | None = None,
    samples: int = 1,
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
        answers: one answer for each prompt, or `samples` of them, which follow each other.
        scores: functions from an answer to its score, by name.
        judge: a model to judge whether answers comply; without one, the rule `complies` tells it.
        samples: the number of answers to each prompt.
        reasoning: formats of reasoning beside `REASONING_FORMATS`.

    Raises:
        InputError: prompts or answers are one text, the number of answers does not fit the prompts,
            an answer or a message is invalid, a score is called like a field of `AnswerRecord`,
            samples is below 1, or there is a judge and a prompt is token ids, or its cache is not a
            file of judgements.
        UnjudgedError: a JudgeError that holds the other labels, because the judge cannot be asked;
            see `judge`.
    """
    _check_list("prompts", prompts)
    _check_list("answers", answers)
    if not is_whole(samples, 1):
        raise InputError(f"samples is {samples!r}, expected a whole number from 1 on")
    if len(answers) != len(prompts) * samples:
        raise InputError(
            f"there are {len(prompts)} prompts and {len(answers)} answers; give "
            f"{'one answer' if samples == 1 else f'{samples} answers'} for each prompt"
        )
    _check_texts(answers)
    finished = _Finished(prompts, samples, scores, judge, reasoning)
    for place, answer in enumerate(answers):
        finished.add(place, answer)
    return finished.judged()


class _Finished:
    """Answers to prompts and their labels, in the order in which answers are finished."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        scores: Mapping[str, Score],
        judge: Judge | None,
        reasoning: Sequence[ReasoningFormat],
        journal: Journal | None = None,
        condition: str = "",
    ) -> None:
        """Take the records of finished answers from the journal."""
        _check_messages(prompts)
        _check_names(scores)
        requests = [] if judge is None else _requests_to_judge(prompts)
        self.requests = [request for request in requests for _ in range(samples)]
        self.asked = [prompt for prompt in prompts for _ in range(samples)]
        self.samples = samples
        self.scores = scores
        self.judge = judge
        self.judge_id = None if judge is None else judge.judge_id
        self.reasoning = reasoning
        self.journal = journal
        self.condition = condition
        self.records: dict[int, AnswerRecord] = {}
        self.answers: dict[int, str] = {}
        if journal is not None:
            for place in range(len(self.asked)):
                if (entry := journal.get(self._key(place))) is not None:
                    record = AnswerRecord.from_record(entry)
                    if self._is_of(place, record):
                        self.records[place] = record

    def _is_of(self, place: int, record: AnswerRecord) -> bool:
        """Whether a record is of this answer, and has all labels that are asked for."""
        of_prompt = record.prompt_id == prompt_id(self.asked[place])
        if not of_prompt or record.sample != place % self.samples:
            return False
        if record.scores.keys() != self.scores.keys():
            return False
        if self.judge is None:
            return record.judge is None
        is_judged = record.judge_id == self.judge_id and record.complied is not None
        return is_judged or (record.judge is None and record.asks_no_judge)

    def take_texts(self, path: Path) -> None:
        """Take texts from a file of `write_answers`, and forget records that have none there."""
        kept = read_answers(path) if self.records else {}
        for place, record in list(self.records.items()):
            if (text := kept.get((record.prompt_id, record.sha256))) is None:
                del self.records[place]
            else:
                self.answers[place] = text

    def missing(self) -> list[int]:
        """The places of answers that are not finished."""
        return [place for place in range(len(self.asked)) if place not in self.records]

    def texts(self) -> list[str | None]:
        """The answers in the order of the prompts; None where there is no text."""
        return [self.answers.get(place) for place in range(len(self.asked))]

    def add(self, place: int, answer: str) -> None:
        """Label an answer, all but what the judge tells."""
        prompt, request = self.asked[place], _request(self.asked[place])
        text = without_reasoning(answer, self.reasoning)
        refused, is_empty = is_refusal(text), no_answer(text)
        by_judge = self.judge is not None and not is_empty
        known = request is not None and not by_judge
        complied = complies(request, text) if known and request is not None else None
        self.answers[place] = answer
        self._keep(
            place,
            AnswerRecord(
                prompt_id=prompt_id(prompt),
                refused=refused,
                scores={name: score(answer) for name, score in self.scores.items()},
                words=len(answer.split()),
                sha256=sha256_of(answer),
                complied=complied,
                no_answer=not refused and is_empty,
                judge=self.judge.model if self.judge is not None and by_judge else None,
                sample=place % self.samples,
                judge_id=self.judge_id if by_judge else None,
                degenerate=is_empty,
            ),
        )

    def judged(self) -> Evaluation:
        """Ask the judge about each answer that it has not read, and return all labels."""
        unread = [
            place
            for place, record in sorted(self.records.items())
            if record.judge is not None and record.complied is None
        ]
        if self.judge is not None and unread:
            try:
                said = judge_answers(
                    [self.requests[place] for place in unread],
                    [without_reasoning(self.answers[place], self.reasoning) for place in unread],
                    self.judge,
                )
            except JudgeError as failure:
                raise UnjudgedError(
                    f"{failure} (the answers and their other labels are in this error: `answers`, "
                    "`evaluation`)",
                    self._evaluation(),
                    self.texts(),
                ) from failure
            for place, complied in zip(unread, said.complied, strict=True):
                self._keep(place, replace(self.records[place], complied=complied))
        return self._evaluation()

    def write(self, path: Path) -> None:
        """Write the texts that there are."""
        places = sorted(self.answers)
        if places:
            write_answers(
                path,
                [self.asked[place] for place in places],
                [self.answers[place] for place in places],
            )

    def _evaluation(self) -> Evaluation:
        return Evaluation(tuple(self.records[place] for place in range(len(self.asked))))

    def _keep(self, place: int, record: AnswerRecord) -> None:
        self.records[place] = record
        if self.journal is not None:
            self.journal.add(self._key(place), asdict(record))

    def _key(self, place: int) -> str:
        return f"{self.condition}: {place}"


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
        text_of(message["content"]) for message in as_messages(prompt) if message["role"] == "user"
    ]
    return said[-1] if said else None


def _check_list(name: str, given: object) -> None:
    if isinstance(given, str | Mapping):
        raise InputError(
            f"{name} is one {type(given).__name__}, expected a list: put it into brackets"
        )


def _check_texts(answers: Sequence[object]) -> None:
    for place, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise InputError(
                f"answers[{place}] is a {type(answer).__name__}, expected a string; an answer of "
                "UnjudgedError that has no text needs `evaluate` with the same journal"
            )


def _check_messages(prompts: Sequence[Prompt]) -> None:
    for place, prompt in enumerate(prompts):
        for message in as_messages(prompt):
            check_message(message, f"prompts[{place}]")


def _check_names(scores: Mapping[str, Score]) -> None:
    taken = {field.name for field in fields(AnswerRecord)} | {"outcome"}
    if clashing := sorted(taken & scores.keys()):
        raise InputError(
            f"a score is called {clashing[0]!r}, which is a label of every answer; give it another "
            "name"
        )
