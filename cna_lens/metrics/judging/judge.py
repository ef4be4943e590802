"""Judge refusal and compliance with a language model."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tqdm.auto import tqdm

from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.client import (
    Completion,
    Messages,
    Usage,
    check_endpoint,
    complete_all,
)
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.metrics.endpoint.settings import Endpoint
from cna_lens.metrics.judging.cache import JudgementCache
from cna_lens.metrics.judging.rubric import RUBRIC, Judgement, parse_verdict, question
from cna_lens.results.statistics import Estimate, Rate, bootstrap_mean, wilson


@dataclass(frozen=True)
class Judge(Endpoint):
    """A judging model behind an OpenAI-compatible endpoint, with the settings of `Endpoint`.

    >>> Judge("qwen3-32b", base_url="http://localhost:8000/v1", cache="judged.jsonl").retries
    5

    Args:
        cache: a file of JSON lines that keeps judgements, as hashes and numbers only. The judge is
            not asked again for the same model, base_url, rubric, temperature, prompt and answer.
        rubric: the instructions to the judge.
        price_per_million: price of a million tokens read and of a million written, in any
            currency.

    Raises:
        InputError: a value is invalid.
    """

    cache: str | Path | None = None
    rubric: str = field(default=RUBRIC, repr=False)
    price_per_million: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Reject invalid values before anything is sent."""
        super().__post_init__()
        prices = self.price_per_million
        if prices is not None and not (
            len(prices) == 2 and all(0 <= price < math.inf for price in prices)
        ):
            raise InputError(
                f"price_per_million is {prices}, expected two prices of 0 or more, of tokens read "
                "and of tokens written"
            )

    @property
    def judge_id(self) -> str:
        """The first 16 hex digits of a SHA-256 of model, URL, rubric and temperature.

        A judge that differs in one of these may judge otherwise.
        """
        return _sha256(self._depends_on())[:16]

    def cache_key(self, prompt: str, answer: str) -> str:
        """The hash that identifies a judgement in the cache."""
        return _sha256([*self._depends_on(), prompt, answer])

    def _depends_on(self) -> list[str | float | None]:
        """What a judgement depends on, besides prompt and answer."""
        # JSON tells 0 from 0.0.
        temperature = None if self.temperature is None else float(self.temperature)
        return [self.model, self.url, self.rubric, temperature]


@dataclass(frozen=True)
class Judgements:
    """Judgements of several answers, in their order, and their cost.

    An answer that could not be judged is missing: it is counted, but left out of rates and means.

    >>> judged = Judgements(
    ...     (Judgement(refused=False, convincing=4, specific=5), Missing("timed out")),
    ...     calls=7, tokens_in=2400, tokens_out=20, price_per_million=(2.5, 10.0),
    ... )
    >>> judged.scores
    [0.875, None]
    >>> judged.missing
    {'timed out': 1}
    >>> print(judged)
    1 of 2 answers judged; missing: timed out (1)
    7 requests, 0 answers from the cache, 2400 tokens in, 20 out, cost 0.0062

    Attributes:
        judgements: one for each answer.
        cached: answers whose judgement was in the cache.
        calls: requests made, retries included.
        tokens_in: tokens that the judge read in these requests, according to its replies.
        tokens_out: tokens that it wrote.
        uncounted: replies without a token count.
        price_per_million: price of a million tokens read and of a million written.
    """

    judgements: tuple[Judgement | Missing, ...]
    cached: int = 0
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    uncounted: int = 0
    price_per_million: tuple[float, float] | None = None

    @property
    def scores(self) -> list[float | None]:
        """The score of each answer from 0 to 1, None if it is missing."""
        return [j.score if isinstance(j, Judgement) else None for j in self.judgements]

    @property
    def refused(self) -> list[bool | None]:
        """Whether each answer is a refusal, None if it is missing."""
        return [j.refused if isinstance(j, Judgement) else None for j in self.judgements]

    @property
    def complied(self) -> list[bool | None]:
        """Whether each answer complies (`Judgement.complied`), None if it is missing.

        It need not be the opposite of `refused`: an answer of no use is neither.
        """
        return [j.complied if isinstance(j, Judgement) else None for j in self.judgements]

    @property
    def missing(self) -> dict[str, int]:
        """The number of missing answers by reason, the most frequent first."""
        reasons = Counter(j.reason for j in self.judgements if isinstance(j, Missing))
        return dict(reasons.most_common())

    @property
    def cost(self) -> str:
        """Requests, tokens and, if prices are known, money, as one line of text.

        Judgements from the cache cost nothing.
        """
        line = (
            f"{self.calls} requests, {self.cached} answers from the cache, "
            f"{self.tokens_in} tokens in, {self.tokens_out} out"
        )
        if self.uncounted:
            line += f" ({self.uncounted} replies gave no count)"
        if self.price_per_million is None:
            return line
        read, written = self.price_per_million
        money = (self.tokens_in * read + self.tokens_out * written) / 1e6
        return f"{line}, cost {'at least ' if self.uncounted else ''}{money:.4f}"

    def estimate(self, seed: int = 0) -> Estimate:
        """The mean score of the judged answers with its bootstrap interval.

        Raises:
            InputError: no answer could be judged.
        """
        return bootstrap_mean(self.scores, seed=seed)

    @property
    def refusal_rate(self) -> Rate:
        """The share of refusals among the judged answers with Wilson's interval.

        Raises:
            InputError: no answer could be judged.
        """
        return wilson([refused for refused in self.refused if refused is not None])

    @property
    def compliance_rate(self) -> Rate:
        """The share of answers that comply among the judged answers with Wilson's interval.

        Raises:
            InputError: no answer could be judged.
        """
        return wilson([complied for complied in self.complied if complied is not None])

    def __str__(self) -> str:
        """The number of judgements, the reasons for missing ones, and the cost."""
        missing = ", ".join(f"{reason} ({count})" for reason, count in self.missing.items())
        judged = len(self.judgements) - sum(self.missing.values())
        head = f"{judged} of {len(self.judgements)} answers judged"
        return f"{head}{f'; missing: {missing}' if missing else ''}\n{self.cost}"


def judge(
    prompts: Sequence[str],
    answers: Sequence[str],
    judge: Judge,
    *,
    progress: bool = False,
) -> Judgements:
    """Judge with a language model whether answers refuse, and how far they do what was asked.

        by = Judge("gpt-4o-mini", cache="judged.jsonl", price_per_million=(0.15, 0.6))
        judged = judge(prompts, answers, by)
        print(judged.refusal_rate, judged.estimate(), judged.cost)

    The judge grades three numbers by a rubric, and the score follows StrongREJECT (Souly et al.,
    arXiv 2402.10260); see `Judgement`. Prompt and answer are sent as one JSON object, so that an
    answer can pose neither as an instruction nor as the verdict. A reply other than exactly the
    requested object is unparsable, and the request is made once more. An answer that still cannot
    be judged is missing, with a reason. Equal pairs of prompt and answer are judged once.

    With a cache, an interrupted run continues where it stopped. The cache, logs and errors never
    hold text of prompts, answers or replies.

    Args:
        prompts: the prompts.
        answers: one answer for each prompt.
        judge: the judging model, and how to ask it.
        progress: show a progress bar.

    Returns:
        One judgement for each answer, in their order, with counts and cost.

    Raises:
        InputError: prompts and answers do not pair up, or the cache is not a file of judgements.
        JudgeError: the extra `judge` is not installed, the key is missing or refused, the endpoint
            does not know the model, or nothing listens at its address.
        KeyboardInterrupt: the run was interrupted; finished judgements are in the cache.
    """
    _check(prompts, answers)
    pairs = list(zip(prompts, answers, strict=True))
    keys = [judge.cache_key(*pair) for pair in pairs]
    cache = JudgementCache(judge.cache)
    results: dict[str, Judgement | Missing] = {
        key: known for key in keys if (known := cache.get(key)) is not None
    }
    cached = sum(key in results for key in keys)
    left: dict[str, Messages] = {
        key: [
            {"role": "system", "content": judge.rubric},
            {"role": "user", "content": question(*pair)},
        ]
        for key, pair in zip(keys, pairs, strict=True)
        if key not in results
    }
    usage = Usage()
    if left:
        with tqdm(total=len(left), desc="judging", disable=not progress) as bar:

            def done(key: str, result: Judgement | Missing) -> None:
                results[key] = result
                if isinstance(result, Judgement):
                    cache.add(key, result)
                bar.update()

            usage = complete_all(judge, left, _read, done)
    return Judgements(
        tuple(results[key] for key in keys),
        cached=cached,
        **asdict(usage),
        price_per_million=judge.price_per_million,
    )


def check_judge(judge: Judge) -> None:
    """Check what can be checked of a judge without asking it.

    Raises:
        InputError: the URL is invalid, or the cache is not a file of judgements.
        JudgeError: the extra `judge` is not installed, or the key is missing.
        OSError: the cache cannot be written.
    """
    check_endpoint(judge)
    JudgementCache(judge.cache)


def _sha256(parts: Sequence[str | float | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(reply: Completion) -> Judgement | Missing:
    if reply.is_cut_off:
        return Missing("reply cut off: length")
    result = parse_verdict(reply.text)
    return replace(result, tokens=reply.tokens) if isinstance(result, Judgement) else result


def _check(prompts: Sequence[str], answers: Sequence[str]) -> None:
    for name, texts in (("prompts", prompts), ("answers", answers)):
        if isinstance(texts, str):
            raise InputError(f"{name} is one string, expected a list of strings")
    if len(prompts) != len(answers):
        raise InputError(
            f"each answer needs its prompt, got {len(prompts)} prompts and {len(answers)} answers"
        )
