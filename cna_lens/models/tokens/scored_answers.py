"""Answers that the model gives, with the tokens they are made of and their log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import TokenIds
from cna_lens.models.running.decoding import Chooser
from cna_lens.models.running.predictions import LogProbs, Text, for_each_text
from cna_lens.models.running.request import Request
from cna_lens.models.tokens.answer_log_probs import TokenPrediction, prediction_of
from cna_lens.models.tokens.token_texts import check_k


@dataclass(frozen=True)
class AnswerSettings:
    """How prompts are answered.

    Attributes:
        max_new_tokens: maximum number of tokens of an answer.
        temperature: 0 takes the most likely token, above 0 samples.
        top_p: sample from the fewest tokens that have this probability together.
        stops: an answer ends before the first of these texts.
        log_probs: whether to compute the log-probability of each token, by one more forward pass.
        k: how many of the most likely tokens to keep at each place.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stops: tuple[str, ...] = ()
    log_probs: bool = False
    k: int = 0


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer with its tokens.

    Attributes:
        text: the answer.
        ids: its tokens.
        predictions: the model's prediction of each token; None unless asked for.
        is_cut: whether the answer ended only because it had as many tokens as were allowed.
    """

    text: str
    ids: TokenIds
    predictions: tuple[TokenPrediction, ...] | None
    is_cut: bool


def scored_answers(
    model: HookedModel, prompts: Sequence[TokenIds], settings: AnswerSettings, seeds: Sequence[int]
) -> list[ScoredAnswer]:
    """Answer prompts as `generate` does, and keep the tokens of the answers.

    >>> (answer,) = scored_answers(tiny_model, [(5, 6)], AnswerSettings(2, log_probs=True), [0])
    >>> len(answer.ids), len(answer.predictions), answer.is_cut
    (2, 2, True)

    Args:
        model: a TransformerBridge or HookedTransformer.
        prompts: as token ids.
        settings: the same for all prompts.
        seeds: one for each prompt; unused at temperature 0.

    Raises:
        InputError: a prompt and its answer exceed the context, a setting is invalid, there is not
            one seed for each prompt, or the model has no tokenizer.
        ModelError: logits are not a number or infinite, so that no token can be chosen.
    """
    _check(model, prompts, settings, seeds)
    length, temperature, top_p = settings.max_new_tokens, settings.temperature, settings.top_p
    request = Request.of(model, list(prompts), length, temperature, 0, False, top_p)
    request.texts.check_tokenizer()
    request = replace(request, choose=Chooser(model, temperature, seeds, top_p))
    answers = [
        _answer(partial(request.texts.text, row), ids, settings)
        for row, ids in enumerate(request.tokens())
    ]
    if not settings.log_probs:
        return answers
    texts = [
        Text((*prompt, *answer.ids), len(prompt), len(prompt))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]

    def predictions(text: Text, log_probs: LogProbs) -> tuple[TokenPrediction, ...]:
        rows = zip(log_probs.cpu(), text.predicted, strict=True)
        return tuple(prediction_of(model, row, token, settings.k) for row, token in rows)

    found = for_each_text(model, texts, predictions)
    return [replace(answer, predictions=each) for answer, each in zip(answers, found, strict=True)]


def _check(
    model: HookedModel, prompts: Sequence[TokenIds], settings: AnswerSettings, seeds: Sequence[int]
) -> None:
    if len(seeds) != len(prompts):
        raise InputError(
            f"there are {len(prompts)} prompts and {len(seeds)} seeds; give each prompt one"
        )
    if not all(settings.stops):
        raise InputError("stops holds an empty text, with which every answer begins; leave it out")
    if settings.k:
        check_k(model, settings.k)


def _answer(
    text_of: Callable[[TokenIds], str], ids: TokenIds, settings: AnswerSettings
) -> ScoredAnswer:
    text = text_of(ids)
    ends = [place for stop in settings.stops if (place := text.find(stop)) >= 0]
    if not ends:
        return ScoredAnswer(text, ids, None, len(ids) >= settings.max_new_tokens)
    end = min(ends)
    kept = len(ids)
    while kept and len(text_of(ids[:kept])) > end:
        kept -= 1
    return ScoredAnswer(text[:end], ids[:kept], None, is_cut=False)
