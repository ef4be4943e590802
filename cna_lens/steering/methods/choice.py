"""Choose the steering method, such as a layer's, that does most and changes little else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from tqdm.auto import tqdm

from cna_lens.errors import InputError
from cna_lens.metrics.likelihood import kl_per_token
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Chat, Prompt, encode
from cna_lens.models.running.generation import generate
from cna_lens.steering.method import SteeringMethod, check_methods, check_strength

if TYPE_CHECKING:
    import pandas as pd

MAX_KL = 0.1
"""Nats per token on negative prompts; a method that changes them more is not chosen."""

Metric = Callable[[HookedModel, Sequence[Prompt]], Sequence[float | None]]
Prefer = Literal["lowest", "highest"]


def check_prefer(prefer: str) -> None:
    """Raise InputError unless the word is one of `Prefer`."""
    if prefer not in get_args(Prefer):
        raise InputError(f"prefer is {prefer!r}, expected 'lowest' or 'highest'")


@dataclass(frozen=True)
class Choice:
    """The best of several steering methods, and the scores and costs of all of them.

    Attributes:
        best: the chosen method.
        candidates: all methods, in the order given.
        scores: each method's mean of the metric over the validation prompts.
        unsteered: the same mean without steering.
        prefer: whether the "lowest" or the "highest" score is the best.
        strength: the strength of the methods.
        n_prompts: how many validation prompts there were.
        kl_per_token: each method's mean KL divergence from the unsteered model on the negative
            prompts, in nats.
        max_kl: the most that a chosen method may have of it.
        n_negative: how many negative prompts there were.
    """

    best: SteeringMethod
    candidates: tuple[SteeringMethod, ...]
    scores: tuple[float, ...]
    unsteered: float
    prefer: Prefer
    strength: float
    n_prompts: int
    kl_per_token: tuple[float, ...]
    max_kl: float
    n_negative: int

    def to_frame(self) -> pd.DataFrame:
        """Tabulate each method's score, its change, KL per token, whether it was kept, and chosen.

        One method a row, in the order given; kept are those within `max_kl`.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "method": [method.name for method in self.candidates],
                "score": self.scores,
                "change": [score - self.unsteered for score in self.scores],
                "kl_per_token": self.kl_per_token,
                "kept": [kl <= self.max_kl for kl in self.kl_per_token],
                "chosen": [method is self.best for method in self.candidates],
            }
        )


def choose(
    model: HookedModel,
    candidates: Sequence[SteeringMethod],
    metric: Metric,
    prompts: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    max_kl: float = MAX_KL,
    answer_tokens: int = 16,
    prefer: Prefer = "lowest",
    strength: float = 1.0,
    chat: Chat = "auto",
    progress: bool = False,
) -> Choice:
    """Choose the method with the best mean of a metric, among those that change little else.

    A metric alone prefers a broken model: one that writes the same token after every prompt has the
    lowest log-odds of a refusal. So a method counts only if its KL divergence from the unsteered
    model on negative prompts is at most `max_kl`. It is the mean over prompts of `kl_per_token`
    along the unsteered model's own answers.

    Use prompts that are neither in the discovery nor in the evaluation set. Among methods with the
    same mean the first one is chosen, so the choice is reproducible. Cost: the metric, and two
    passes over the negative prompts with their answers, for each method; and answers to the
    negative prompts.

    >>> candidates = caa_candidates(tiny_model, ["w5 w6"], ["w7"], coefficient=0.1, chat=False)
    >>> def first_logit(model, prompts):
    ...     return [float(model(torch.tensor([ids]))[0, -1, 0].detach()) for ids in prompts]
    >>> choice = choose(tiny_model, candidates, first_logit, [[5, 6], [7, 8]], [[9, 10]])
    >>> min(choice.scores) == choice.scores[candidates.index(choice.best)]
    True
    >>> max(choice.kl_per_token) < choice.max_kl
    True

    Args:
        model: a TransformerBridge or HookedTransformer.
        candidates: the methods.
        metric: a function of the steered model and the prompts that returns one value for each
            prompt, such as `cna_lens.metrics.refusal_log_odds`.
        prompts: the validation split: prompts that show the behaviour.
        negative: validation prompts that do not show it, on which steering should change nothing.
        max_kl: the most KL divergence per token on them, in nats; infinity for no bound. 0.1 is the
            bound of Arditi et al. (arXiv 2406.11717) at the token before the answer.
        answer_tokens: tokens of each negative answer along which the divergence is taken; 0 takes
            the negative prompts' own tokens, where steering of the answers alone does not show.
        prefer: whether the "lowest" or the "highest" mean is the best.
        strength: the strength at which the methods are compared.
        chat: put prompts into the chat template; "auto" does so if the tokenizer has one. Where it
            is not "auto", the metric is given the prompts as token ids.
        progress: show a progress bar.

    Raises:
        InputError: there are no candidates or no prompts, the metric does not return one number
            for each prompt, no token of the negative prompts counts, or no candidate keeps to
            `max_kl`.
        ModelError: a candidate makes logits infinite or not a number.
    """
    check_methods(candidates, "candidates")
    check_strength(strength)
    if isinstance(prompts, str) or isinstance(negative, str):
        raise InputError("prompts and negative are lists of prompts, and one of them is a text")
    if not candidates:
        raise InputError("candidates is empty; give at least one steering method")
    if not prompts:
        raise InputError("prompts is empty; give at least one validation prompt")
    if not negative:
        raise InputError(
            "negative is empty; give validation prompts on which steering should change nothing"
        )
    if not max_kl >= 0:
        raise InputError(f"max_kl is {max_kl}, expected 0 or above, in nats per token")
    if answer_tokens < 0:
        raise InputError(f"answer_tokens is {answer_tokens}, expected 0 or above")
    check_prefer(prefer)
    if chat != "auto":
        prompts = encode(model, prompts, chat=chat).ids
    unsteered = _mean(metric(model, prompts), len(prompts), "without steering")
    answers = None
    if answer_tokens:
        answers = generate(model, negative, max_new_tokens=answer_tokens, chat=chat)
    scores: list[float] = []
    costs: list[float] = []
    for method in tqdm(candidates, desc="choosing", unit="method", disable=not progress):
        divergences = kl_per_token(
            model, lambda m=method: m.at(model, strength), negative, answers, chat=chat
        )
        costs.append(_mean_known(divergences))
        with method.at(model, strength):
            scores.append(_mean(metric(model, prompts), len(prompts), method.name))
    kept = [place for place, cost in enumerate(costs) if cost <= max_kl]
    pick = min if prefer == "lowest" else max
    if not kept:
        best, least = pick(range(len(scores)), key=scores.__getitem__), costs.index(min(costs))
        raise InputError(
            f"no candidate keeps to max_kl = {max_kl:g} nats per token on the negative prompts: "
            f"{candidates[best].name!r} has the best score, {scores[best]:.3g}, at a KL of "
            f"{costs[best]:.3g}, and {candidates[least].name!r} the least KL, {costs[least]:.3g}; "
            "lower the strength, try other candidates, or raise max_kl and look at the answers"
        )
    best = pick(kept, key=scores.__getitem__)
    return Choice(
        best=candidates[best],
        candidates=tuple(candidates),
        scores=tuple(scores),
        unsteered=unsteered,
        prefer=prefer,
        strength=strength,
        n_prompts=len(prompts),
        kl_per_token=tuple(costs),
        max_kl=max_kl,
        n_negative=len(negative),
    )


def _mean_known(divergences: Sequence[float | None]) -> float:
    known = [value for value in divergences if value is not None]
    if not known:
        raise InputError(
            "the unsteered model's answers to the negative prompts have no tokens, so that no "
            "change of them can be measured; give other negative prompts, or answer_tokens=0"
        )
    return math.fsum(known) / len(known)


def _mean(values: Sequence[float | None], n_prompts: int, where: str) -> float:
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if len(values) != n_prompts or len(numbers) != n_prompts:
        raise InputError(
            f"the metric gave {len(numbers)} numbers for {n_prompts} prompts ({where}); it must "
            "give one for each"
        )
    mean = sum(numbers) / n_prompts
    if math.isnan(mean):
        raise InputError(
            f"the metric is infinite in both directions ({where}), so that it has no mean"
        )
    # Exact, except where an infinite number makes a finite sum impossible.
    return math.fsum(numbers) / n_prompts if math.isfinite(mean) else mean
