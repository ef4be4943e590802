"""Ask an endpoint the sensitive canaries, and judge what it answers."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal

from tqdm.auto import tqdm

from cna_lens.audit.identity.identity import (
    FALSE_ALARM_RATE,
    IdentityAttestation,
    judge_identity,
)
from cna_lens.audit.identity.sensitive import By, SensitiveCanaries
from cna_lens.errors import InputError
from cna_lens.metrics.endpoint.client import BUDGET_SPENT, Budget, Completion, complete_all
from cna_lens.metrics.endpoint.replies import Missing
from cna_lens.metrics.endpoint.settings import Endpoint
from cna_lens.results.statistics import check_probability

UseLogProbs = Literal["auto"] | bool
ALARM_RAISED: Final = "not asked after the alarm"
_NOT_OFFERED: Final = ("HTTP 400", "HTTP 422")


def attest_identity(
    endpoint: Endpoint,
    canaries: SensitiveCanaries,
    *,
    log_probs: UseLogProbs = "auto",
    false_alarm_rate: float = FALSE_ALARM_RATE,
    max_requests: int | None = None,
    max_seconds: float | None = None,
    stop_at_alarm: bool = False,
    seed: int | None = None,
    progress: bool = False,
) -> IdentityAttestation:
    r"""Ask an endpoint the sensitive canaries: is it the model on which they were chosen?

        served = Endpoint("my-model", base_url="http://localhost:8000/v1")
        print(attest_identity(served, SensitiveCanaries.load("canaries.json")))

    An answer is changed if its words are not those of the genuine model's greedy answer; by
    log-probabilities also if the root mean square difference of its tokens' log-probabilities from
    the recorded ones is beyond the canary's tolerance. The canaries are asked in random order, and
    a gambler bets at fair odds that answers are changed. If no larger share of the canaries is
    changed than `SensitiveCanaries.expected` allows, the probability that the gambler's capital
    ever reaches $1/\alpha$ is at most $\alpha$; see
    `cna_lens.audit.identity.betting`. Whether the model still refuses is another question,
    which `attest_answers` asks.

    Args:
        endpoint: the endpoint; its temperature should be 0, its default.
        canaries: the canaries of the model as it should be.
        log_probs: whether to compare log-probabilities too; "auto" does so if the endpoint gives
            them with every answer, and they are not all 0, as behind a temperature of 0.
        false_alarm_rate: the largest probability of an alarm if the model is the same.
        max_requests: the largest number of requests, retries included; None asks all canaries.
        max_seconds: after so many seconds no canary is asked, and no reply is waited for.
        stop_at_alarm: ask no more once the alarm is raised, as its rate holds at any time. Canaries
            are then asked in rounds of `endpoint.max_concurrency`, and the first replies say
            whether log-probabilities are compared. The other canaries stay secret, and the share of
            changed answers is known less well.
        seed: of the order; None takes a new one each time, which nobody can know before.
        progress: show a progress bar.

    Raises:
        InputError: the settings are invalid.
        JudgeError: the extra `judge` is not installed, or the endpoint cannot be used at all.
    """
    check_probability("false_alarm_rate", false_alarm_rate)
    budget = Budget(max_requests, max_seconds)
    if endpoint.temperature not in (0.0, None):
        raise InputError(
            f"the endpoint's temperature is {endpoint.temperature:g}, and greedy answers are "
            "compared; give temperature=0"
        )
    order = list(range(len(canaries.prompts)))
    random.Random(secrets.randbits(64) if seed is None else seed).shuffle(order)
    size = endpoint.max_concurrency if stop_at_alarm else len(order)

    def judged(replies: Sequence[Completion | Missing]) -> IdentityAttestation:
        by: By = "log-probabilities" if _compares_log_probs(log_probs, replies[:size]) else "text"
        changed = [
            reply
            if isinstance(reply, Missing)
            else canaries.is_changed(
                place, reply.text, reply.log_probs, by=by, is_cut=reply.is_cut_off
            )
            for place, reply in zip(order, replies, strict=False)
        ]
        return judge_identity(
            changed, canaries, model=endpoint.model, by=by, false_alarm_rate=false_alarm_rate
        )

    replies: list[Completion | Missing] = []
    with tqdm(total=len(order), desc="asking", unit="canary", disable=not progress) as bar:
        for some in _rounds(endpoint, canaries, order, size, log_probs, budget, bar.update):
            replies += some
            if stop_at_alarm and judged(replies).alarm_after is not None:
                break
    replies += [Missing(ALARM_RAISED)] * (len(order) - len(replies))
    return judged(replies)


def _compares_log_probs(wanted: UseLogProbs, replies: Sequence[Completion | Missing]) -> bool:
    if wanted != "auto":
        return wanted
    given = [each.log_probs for each in replies if isinstance(each, Completion)]
    # Behind a temperature of 0 every token has probability 1; some endpoints report that.
    return None not in given and any(any(each or ()) for each in given)


def _rounds(
    endpoint: Endpoint,
    canaries: SensitiveCanaries,
    order: Sequence[int],
    size: int,
    log_probs: UseLogProbs,
    budget: Budget,
    update: Callable[[], object],
) -> Iterator[list[Completion | Missing]]:
    """Yield the replies in the order of asking, in rounds of some size after the first one.

    The first reply shows whether there are log-probabilities. An endpoint that does not offer them
    may refuse a request for them, and then every request.
    """
    found: dict[int, Completion | Missing] = {}
    used = 0
    began = time.monotonic()

    def ask(places: Sequence[int], with_log_probs: bool) -> None:
        nonlocal used
        left = None if budget.max_requests is None else budget.max_requests - used
        seconds = None
        if budget.max_seconds is not None:
            seconds = budget.max_seconds - (time.monotonic() - began)
        if (left is not None and left < 1) or (seconds is not None and seconds <= 0):
            found.update((place, Missing(BUDGET_SPENT)) for place in places)
            return

        def done(key: str, reply: Completion | Missing) -> None:
            if int(key) not in found:
                update()
            found[int(key)] = reply

        conversations = {
            str(place): [{"role": "user", "content": canaries.prompts[place]}] for place in places
        }
        used += complete_all(
            endpoint,
            conversations,
            lambda reply: reply,
            done,
            canaries.n_tokens,
            Budget(left, seconds),
            log_probs=with_log_probs,
        ).calls

    first, rest = order[:1], order[1:]
    ask(first, log_probs is not False)
    reply = found[first[0]]
    offered = not (isinstance(reply, Missing) and reply.reason in _NOT_OFFERED)
    if log_probs == "auto" and not offered:
        ask(first, False)
    yield [found[first[0]]]
    with_log_probs = log_probs is True or (log_probs == "auto" and offered)
    for start in range(0, len(rest), size):
        places = rest[start : start + size]
        ask(places, with_log_probs)
        yield [found[place] for place in places]
