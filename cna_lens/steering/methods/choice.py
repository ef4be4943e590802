"""Choose among steering methods, such as one for each layer, on a validation split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from tqdm.auto import tqdm

from cna_lens.errors import InputError
from cna_lens.models.hooked_model import HookedModel
from cna_lens.models.prompts.encoding import Prompt
from cna_lens.steering.method import SteeringMethod

if TYPE_CHECKING:
    import pandas as pd

Metric = Callable[[HookedModel, Sequence[Prompt]], Sequence[float | None]]
Prefer = Literal["lowest", "highest"]


def check_prefer(prefer: str) -> None:
    """Raise InputError unless the word is one of `Prefer`."""
    if prefer not in get_args(Prefer):
        raise InputError(f"prefer is {prefer!r}, expected 'lowest' or 'highest'")


@dataclass(frozen=True)
class Choice:
    """The best of several steering methods, and the scores of all of them.

    Attributes:
        best: the chosen method.
        candidates: all methods, in the order given.
        scores: each method's mean of the metric over the validation prompts.
        unsteered: the same mean without steering.
        prefer: whether the "lowest" or the "highest" score is the best.
        strength: the strength of the methods.
        n_prompts: how many validation prompts there were.
    """

    best: SteeringMethod
    candidates: tuple[SteeringMethod, ...]
    scores: tuple[float, ...]
    unsteered: float
    prefer: Prefer
    strength: float
    n_prompts: int

    def to_frame(self) -> pd.DataFrame:
        """Tabulate method, score, change and chosen, one method a row, in the order given."""
        import pandas as pd

        return pd.DataFrame(
            {
                "method": [method.name for method in self.candidates],
                "score": self.scores,
                "change": [score - self.unsteered for score in self.scores],
                "chosen": [method is self.best for method in self.candidates],
            }
        )


def choose(
    model: HookedModel,
    candidates: Sequence[SteeringMethod],
    metric: Metric,
    prompts: Sequence[Prompt],
    *,
    prefer: Prefer = "lowest",
    strength: float = 1.0,
    progress: bool = False,
) -> Choice:
    """Choose the steering method with the best mean of a metric over validation prompts.

    Use prompts that are neither in the discovery nor in the evaluation set. Among methods with the
    same mean the first one is chosen, so the choice is reproducible.

    >>> candidates = caa_candidates(tiny_model, ["w5 w6"], ["w7"], chat=False)
    >>> def first_logit(model, prompts):
    ...     return [float(model(torch.tensor([ids]))[0, -1, 0].detach()) for ids in prompts]
    >>> choice = choose(tiny_model, candidates, first_logit, [[5, 6], [7, 8]])
    >>> min(choice.scores) == choice.scores[candidates.index(choice.best)]
    True

    Args:
        model: a TransformerBridge or HookedTransformer.
        candidates: the methods.
        metric: a function of the steered model and the prompts that returns one value for each
            prompt, such as `cna_lens.metrics.refusal_log_odds`.
        prompts: the validation split.
        prefer: whether the "lowest" or the "highest" mean is the best.
        strength: the strength at which the methods are compared.
        progress: show a progress bar.

    Raises:
        InputError: there are no candidates or no prompts, or the metric does not return one number
            for each prompt.
    """
    if not candidates:
        raise InputError("candidates is empty; give at least one steering method")
    if not prompts:
        raise InputError("prompts is empty; give at least one validation prompt")
    check_prefer(prefer)
    unsteered = _mean(metric(model, prompts), len(prompts), "without steering")
    scores: list[float] = []
    for method in tqdm(candidates, desc="choosing", unit="method", disable=not progress):
        with method.at(model, strength):
            scores.append(_mean(metric(model, prompts), len(prompts), method.name))
    best = (min if prefer == "lowest" else max)(range(len(scores)), key=scores.__getitem__)
    return Choice(
        candidates[best],
        tuple(candidates),
        tuple(scores),
        unsteered,
        prefer,
        strength,
        len(prompts),
    )


def _mean(values: Sequence[float | None], n_prompts: int, where: str) -> float:
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if len(values) != n_prompts or len(numbers) != n_prompts:
        raise InputError(
            f"the metric gave {len(numbers)} numbers for {n_prompts} prompts ({where}); it must "
            "give one for each"
        )
    return math.fsum(numbers) / n_prompts
