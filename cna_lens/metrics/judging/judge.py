"""Refusal and compliance, judged by a language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tqdm.auto import tqdm

from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.client import Usage
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.metrics.judging.cache import JudgementCache
from cna_lens.metrics.judging.client import Judge, ask_all
from cna_lens.metrics.judging.rubric import Judgement
from cna_lens.results.statistics import Estimate, Rate, bootstrap_mean, wilson


@dataclass(frozen=True)
class Judgements:
    """What a judge made of several answers, in their order, and what that cost.

    An answer that could not be judged is missing: counted, left out of rates and means, never 0.

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
        tokens_in: tokens the judge read in these calls, as its replies count them.
        tokens_out: tokens it wrote.
        uncounted: replies that gave no count of tokens.
        price_per_million: of tokens read and of tokens written.
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
        """The score of each answer from 0 to 1, None where it is missing."""
        return [j.score if isinstance(j, Judgement) else None for j in self.judgements]

    @property
    def refused(self) -> list[bool | None]:
        """Whether each answer is a refusal, None where it is missing."""
        return [j.refused if isinstance(j, Judgement) else None for j in self.judgements]

    @property
    def missing(self) -> dict[str, int]:
        """How many answers are missing for each reason, the most frequent first."""
        reasons = Counter(j.reason for j in self.judgements if isinstance(j, Missing))
        return dict(reasons.most_common())

    @property
    def cost(self) -> str:
        """Requests, tokens and, where prices are known, money, as one line of text.

        What was judged earlier and came from the cache costs nothing again.
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

    def __str__(self) -> str:
        """How many were judged, why others are missing, and the cost."""
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
    """Have a language model judge whether answers refuse, and how far they do what was asked.

        by = Judge("gpt-4o-mini", cache="judged.jsonl", price_per_million=(0.15, 0.6))
        judged = judge(prompts, answers, by)
        print(judged.refusal_rate, judged.estimate(), judged.cost)

    The judge is told a rubric of three numbers, scored as StrongREJECT scores (Souly et al.,
    arXiv 2402.10260); see `Judgement`. Prompt and answer are sent as one JSON object, so that an
    answer poses neither as an instruction nor as the verdict. A reply that is not exactly the
    object asked for is unparsable and asked for once more. What then cannot be judged is missing,
    with a reason. Equal pairs of prompt and answer are judged once.

    With a cache, a run that was interrupted goes on where it stopped. The text of prompts, answers
    and replies gets neither into the cache nor into logs and errors.

    Args:
        prompts: what was asked.
        answers: what was answered, one for each prompt.
        judge: who judges, and how it is asked.
        progress: show a progress bar.

    Returns:
        One judgement for each answer, in their order, with counts and cost.

    Raises:
        InputError: prompts and answers do not pair up, or the cache is no file of judgements.
        JudgeError: the extra `judge` is not installed, the key is missing or refused, the endpoint
            does not know the model, or nothing listens at its address.
        KeyboardInterrupt: at once; what has been judged is in the cache.
    """
    _check(prompts, answers)
    pairs = list(zip(prompts, answers, strict=True))
    keys = [judge.cache_key(*pair) for pair in pairs]
    cache = JudgementCache(judge.cache)
    results: dict[str, Judgement | Missing] = {
        key: known for key in keys if (known := cache.get(key)) is not None
    }
    cached = sum(key in results for key in keys)
    left = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in results}
    usage = Usage()
    if left:
        with tqdm(total=len(left), desc="judging", disable=not progress) as bar:

            def done(key: str, result: Judgement | Missing) -> None:
                results[key] = result
                if isinstance(result, Judgement):
                    cache.add(key, result)
                bar.update()

            usage = ask_all(judge, left, done)
    return Judgements(
        tuple(results[key] for key in keys),
        cached=cached,
        **asdict(usage),
        price_per_million=judge.price_per_million,
    )


def _check(prompts: Sequence[str], answers: Sequence[str]) -> None:
    for name, texts in (("prompts", prompts), ("answers", answers)):
        if isinstance(texts, str):
            raise InputError(f"{name} is one string, expected a list of strings")
    if len(prompts) != len(answers):
        raise InputError(
            f"each answer needs its prompt, got {len(prompts)} prompts and {len(answers)} answers"
        )
