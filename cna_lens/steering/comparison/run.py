"""Run every method at every strength on the same prompts, against one unsteered baseline."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, cast

from tqdm.auto import tqdm

from cna_lens.errors import InputError
from cna_lens.metrics.compliance import labels_sha256
from cna_lens.metrics.evaluation import label
from cna_lens.metrics.first_token import refusal_log_odds
from cna_lens.metrics.likelihood import kl_per_token
from cna_lens.metrics.refusal.reasoning import without_reasoning
from cna_lens.metrics.refusal.rules import is_refusal
from cna_lens.models.hooked_model import HookedModel, model_name
from cna_lens.models.inside.weights import weights_hash
from cna_lens.models.prompts.encoding import (
    Chat,
    EncodedPrompts,
    Prompt,
    chat_settings,
    encode,
)
from cna_lens.models.prompts.sets import PromptSet
from cna_lens.models.running.generation import generate
from cna_lens.results.journal import Journal
from cna_lens.results.provenance import library_versions
from cna_lens.steering.comparison.identity import fingerprint, of_callable
from cna_lens.steering.comparison.table import UNSTEERED, Comparison, Outcome
from cna_lens.steering.method import SteeringMethod, check_methods, check_strength

Metric = Callable[[HookedModel, Sequence[Any]], Sequence[float | None]]

METRICS: Mapping[str, Metric] = {"refusal_log_odds": refusal_log_odds}
"""The default metrics on the positive prompts."""


def compare(
    model: HookedModel,
    methods: Sequence[SteeringMethod],
    prompts: PromptSet,
    strengths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    metrics: Mapping[str, Metric] = METRICS,
    seed: int = 0,
    *,
    shows_behaviour: Callable[[str], bool] = is_refusal,
    max_new_tokens: int = 64,
    chat: Chat = "auto",
    path: str | Path | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare steering methods by their effect on a behaviour, by compliance, and by their cost.

    Every method runs at every strength on the same prompts. The unsteered model answers once. The
    KL divergence per token is measured along the unsteered model's answers to the negative prompts.
    At strength 0, every method gets the unsteered model's results. Each other row costs: generating
    answers to all prompts, two passes over the unsteered answers to the negative prompts, and the
    metrics.

    An answer that no longer shows the behaviour need not do what was asked. So the table has a
    column for the behaviour, one for compliance with the positive prompts (by the rule
    `complies`), and one for answers that are empty or degenerate. All are shares of all answers.

    >>> circuit = Circuit((Neuron(1, 3),), (1.0,), tiny_layout)
    >>> prompts = PromptSet("words", "an example", ("w5 w6",), ("w7 w8",))
    >>> table = compare(
    ...     tiny_model, [ablation(circuit)], prompts, [0.5, 1.0], {}, max_new_tokens=3,
    ...     progress=False,
    ... ).to_frame()
    >>> table[["method", "strength"]].values.tolist()
    [['unsteered', 0.0], ['ablation', 0.5], ['ablation', 1.0]]

    Args:
        model: a TransformerBridge or HookedTransformer.
        methods: the steering methods, of different names.
        prompts: positive ones, which call for the behaviour, and negative ones.
        strengths: from 0, no steering, to 1, the whole method.
        metrics: functions of the model and the positive prompts, by name; each returns one value
            for each prompt, and runs on the steered model. Where `chat` is not "auto", it is given
            the prompts as token ids.
        seed: the seed of the bootstrap intervals.
        shows_behaviour: tells whether an answer, without its reasoning, shows the behaviour; by
            default whether it is a refusal.
        max_new_tokens: the most tokens of an answer.
        chat: put prompts into the chat template; "auto" does so if the tokenizer has one.
        path: a file of JSON lines for finished rows: labels, scores and hashes, no texts. An
            interrupted comparison resumes from it.
        progress: show a progress bar.

    Raises:
        InputError: there are no methods, two have one name, a strength is outside 0 to 1, a metric
            does not return one number for each prompt, or `path` holds another comparison. With
            `path`, also for a method that is no frozen dataclass and does not say its settings.
    """
    _check(methods, strengths)
    run = _Run(model, prompts, metrics, shows_behaviour, max_new_tokens, chat)
    journal = Journal(None if path is None else Path(path), "comparison", run.depends_on())
    steered = [(method, float(s)) for method in methods for s in strengths]
    with tqdm(total=1 + len(steered), unit="row", disable=not progress) as bar:

        def outcome(key: str, measure: Callable[[], Outcome]) -> Outcome:
            if key not in journal:
                journal.add(key, measure().record())
            bar.update()
            return Outcome.from_record(journal[key])

        baseline = outcome(UNSTEERED, lambda: run.measure(UNSTEERED, 0.0, nullcontext))
        outcomes = [baseline]
        for method, strength in steered:
            bar.set_postfix_str(f"{method.name} {strength:g}")
            if strength == 0:
                bar.update()
                outcomes.append(replace(baseline, method=method.name, seconds=0.0))
                continue
            known = "" if path is None else fingerprint(method)
            key = f"{method.name} {strength} {known}"
            outcomes.append(
                outcome(
                    key,
                    lambda m=method, s=strength: run.measure(m.name, s, lambda: m.at(model, s)),
                )
            )
    return Comparison(tuple(outcomes), seed)


@dataclass(frozen=True, eq=False)
class _Run:
    """The prompts and settings of a comparison, and the unsteered answers once they are needed."""

    model: HookedModel
    prompts: PromptSet
    metrics: Mapping[str, Metric]
    shows_behaviour: Callable[[str], bool]
    max_new_tokens: int
    chat: Chat

    def depends_on(self) -> dict[str, Any]:
        """Return everything that all outcomes depend on."""
        return {
            "model": model_name(self.model),
            "weights_sha256": weights_hash(self.model),
            "positive": self._encoded(self.prompts.positive).record.sha256,
            "negative": self._encoded(self.prompts.negative).record.sha256,
            "metrics": {name: of_callable(self.metrics[name]) for name in sorted(self.metrics)},
            "labels_sha256": labels_sha256(),
            "shows_behaviour": of_callable(self.shows_behaviour),
            "reasoning": repr(chat_settings(self.chat).reasoning),
            "max_new_tokens": self.max_new_tokens,
            "versions": [list(each) for each in library_versions()],
        }

    def measure(
        self, name: str, strength: float, steering: Callable[[], AbstractContextManager[Any]]
    ) -> Outcome:
        """Answer, label and measure within the steering."""
        started = time.perf_counter()
        answers = unsteered = self.unsteered_answers
        if name != UNSTEERED:
            started = time.perf_counter()
            with steering():
                answers = self._answer()
        n_positive = len(self.prompts.positive)
        own = chat_settings(self.chat).reasoning
        shows = [bool(self.shows_behaviour(without_reasoning(answer, own))) for answer in answers]
        labelled = label(self.prompts.positive, answers[:n_positive], reasoning=own)
        divergences = kl_per_token(
            self.model, steering, self.prompts.negative, unsteered[n_positive:], chat=self.chat
        )
        positive: Sequence[Prompt] = self.prompts.positive
        if self.chat != "auto":
            positive = self._encoded(positive).ids
        with steering():
            metrics = {
                metric: _one_for_each(measure(self.model, positive), n_positive, metric)
                for metric, measure in self.metrics.items()
            }
        return Outcome(
            method=name,
            strength=strength,
            positive=tuple(shows[:n_positive]),
            negative=tuple(shows[n_positive:]),
            quality=tuple(labelled.scores("quality")),
            kl_per_token=tuple(divergences),
            metrics=metrics,
            answers_sha256=tuple(hashlib.sha256(a.encode()).hexdigest() for a in answers),
            seconds=time.perf_counter() - started,
            complied=tuple(labelled.complied),
            no_answer=tuple(labelled.no_answer),
            compression_ratio=tuple(labelled.scores("compression_ratio")),
        )

    @cached_property
    def unsteered_answers(self) -> list[str]:
        """The unsteered model's answers; a resumed run generates them again, files hold no text."""
        return self._answer()

    def _answer(self) -> list[str]:
        texts = [*self.prompts.positive, *self.prompts.negative]
        return generate(self.model, texts, max_new_tokens=self.max_new_tokens, chat=self.chat)

    def _encoded(self, prompts: Sequence[Prompt]) -> EncodedPrompts:
        return encode(self.model, prompts, chat=self.chat)


def _one_for_each(values: object, n: int, metric: str) -> tuple[float | None, ...]:
    try:
        found = tuple(None if each is None else float(each) for each in cast("Any", values))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the metric {metric!r} returned {values!r}, expected one number or None for each of "
            f"the {n} positive prompts"
        ) from error
    if len(found) != n:
        raise InputError(
            f"the metric {metric!r} returned {len(found)} values, expected {n}, one for each "
            "positive prompt"
        )
    return found


def _check(methods: Sequence[SteeringMethod], strengths: Sequence[float]) -> None:
    check_methods(methods, "methods")
    if isinstance(strengths, Real):
        raise InputError(f"strengths is {strengths}, expected several: [{strengths}]")
    if not len(methods) or not len(strengths):
        raise InputError("a comparison needs at least one method and one strength")
    for strength in strengths:
        check_strength(strength)
    names = [UNSTEERED, *(method.name for method in methods)]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"{min(doubled)!r} names more than one method; rename one, for example with "
            "dataclasses.replace(method, name=...)"
        )
